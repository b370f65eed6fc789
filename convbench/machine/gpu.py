"""NVIDIA GPUs: what torch says of them, and what the driver adds where nvidia-ml-py is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
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
    return _reasons(bits)


@dataclass(frozen=True)
class Reading:
    """One moment of a GPU, by its driver; None where it does not tell."""

    clock_mhz: float | None = None
    highest_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    throttled: tuple[str, ...] = ()

    def is_slow(self, share: float) -> bool:
        """Whether the clock is below a share of the GPU's highest."""
        return bool(self.clock_mhz and self.highest_mhz and self.clock_mhz < share * self.highest_mhz)


class Watch:
    """The driver's view of one GPU, for as long as somebody looks. reason: why there is none."""

    def __init__(self, device: str) -> None:
        self.reason = ""
        self._nvml: Any = None
        self._handle: Any = None
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml, self._handle = pynvml, _handle(pynvml, device)
        except ImportError:
            self.reason = "nvidia-ml-py is not installed"
        except Exception as error:
            self.reason = f"the driver does not answer: {error}"

    def reading(self) -> Reading | None:
        """The moment; None where there is no driver to ask."""
        nvml, handle = self._nvml, self._handle
        if handle is None:
            return None
        clock = nvml.NVML_CLOCK_SM
        bits = _answer(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)) or 0
        return Reading(
            _answer(lambda: nvml.nvmlDeviceGetClockInfo(handle, clock)),
            _answer(lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, clock)),
            _answer(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            _answer(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            _reasons([bits]),
        )

    def energy_j(self) -> float | None:
        """Joules since the driver was loaded; None where it does not count them."""
        if self._handle is None:
            return None
        return _answer(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1000)


def _answer(question: Callable[[], Any]) -> Any:
    """What a driver answers that need not support the question; None where it does not."""
    try:
        return question()
    except Exception:
        return None


def _reasons(bits: list[int]) -> tuple[str, ...]:
    return tuple(sorted({reason for bit, reason in THROTTLE_REASONS.items() if any(b & bit for b in bits)}))


def _handle(nvml: Any, device: str | int) -> Any:
    """The driver's handle of torch's device: CUDA_VISIBLE_DEVICES may reorder, so that indices differ."""
    import torch

    return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")


def _ask_driver(index: int, question: Callable[[Any, Any], Any], otherwise: Any) -> Any:
    """question(the driver's library, its handle of torch's device), or ``otherwise`` where either is missing."""
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            return question(pynvml, _handle(pynvml, index))
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # not installed, no driver, or a driver that does not answer
        return otherwise
