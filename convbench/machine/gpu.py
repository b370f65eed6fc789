"""NVIDIA GPUs: what torch says of them, and what the driver adds where nvidia-ml-py is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

# nvml.h: reasons for a lower clock that disturb measurements (idle and application settings do not).
THROTTLE_REASONS = {0x04: "power cap", 0x08: "hardware slowdown", 0x20: "thermal", 0x40: "thermal", 0x80: "power brake"}


def describe() -> list[dict[str, Any]]:
    """One entry a GPU that torch sees, in torch's order; never a serial number or UUID."""
    import torch

    return [
        {key: value for key, value in (_by_torch(i) | _by_driver(i)).items() if value is not None}
        for i in range(torch.cuda.device_count())
    ]


def _by_torch(index: int) -> dict[str, Any]:
    import torch

    device = torch.cuda.get_device_properties(index)
    return {"name": device.name, "memory_bytes": device.total_memory,
            "compute_capability": f"{device.major}.{device.minor}", "multiprocessors": device.multi_processor_count,
            "l2_bytes": getattr(device, "L2_cache_size", None)}  # fmt: skip


def _by_driver(index: int) -> dict[str, Any]:
    def question(nvml: Any, handle: Any) -> dict[str, Any]:
        return {"driver": nvml.nvmlSystemGetDriverVersion(),
                "mhz_max": nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
                "power_limit_w": nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000}  # fmt: skip

    return _ask_driver(index, question, {})


def throttle_reasons() -> tuple[str, ...]:
    """Why GPUs in use run below their clock at this moment; empty when they do not, or nobody can tell."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return ()

    def question(nvml: Any, handle: Any) -> int:
        return nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)

    bits = [_ask_driver(index, question, 0) for index in range(torch.cuda.device_count())]
    return tuple(sorted({reason for bit, reason in THROTTLE_REASONS.items() if any(b & bit for b in bits)}))


def _ask_driver(index: int, question: Callable[[Any, Any], Any], otherwise: Any) -> Any:
    """question(the driver's library, its handle of torch's device), or ``otherwise`` where either is missing."""
    try:
        import pynvml
        import torch

        pynvml.nvmlInit()
        try:
            uuid = torch.cuda.get_device_properties(index).uuid  # CUDA_VISIBLE_DEVICES may reorder: indices differ
            return question(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # not installed, no driver, or a driver that does not answer
        return otherwise
