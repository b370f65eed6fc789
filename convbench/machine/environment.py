"""The machine and the software, as far as they can change a result. Never fails: what is unknown is left out.

Nothing in it identifies a person or a host: records are published.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from convbench.process import usable_cpus
from convbench.results import Environment

PACKAGES = ("convbench", "torch", "numba", "llvmlite", "numpy", "scipy", "triton")
VARIABLES = re.compile(r"(OMP|GOMP|KMP|MKL|OPENBLAS|NUMBA|DNNL|ONEDNN|TORCH|TORCHINDUCTOR|CUDNN|CUBLAS|MALLOC)_[A-Z0-9_]+"
                       r"|CUDA_VISIBLE_DEVICES|LD_PRELOAD|TRITON_INTERPRET")  # fmt: skip
ISA = ("sse2", "sse4_2", "avx", "fma", "avx2", "avx512f", "avx512bw", "avx512vl", "avx512_bf16", "avx512_vnni",
       "amx_tile", "amx_bf16", "neon", "asimd", "sve", "sve2", "bf16")  # fmt: skip


def detect(with_torch: bool = True, root: Path = Path("/")) -> Environment:
    """Describe this machine. with_torch also asks torch, importing it; root is where /proc and /sys are."""
    cpu = _cpu(root)
    gpu = _attempt(_gpus, []) if with_torch else []
    return Environment(
        machine=machine_name(cpu, gpu),
        cpu=cpu,
        memory=_attempt(_memory, {}),
        gpu=gpu,
        system=_system(root),
        versions=_versions() | (_attempt(_torch_versions, {}) if with_torch else {}),
        variables={key: value for key, value in sorted(os.environ.items()) if VARIABLES.fullmatch(key)},
        git_revision=_attempt(_git_revision, None),
    )


def machine_name(cpu: dict[str, Any], gpu: list[dict[str, Any]]) -> str:
    """Short and safe as a folder: h100-80gb-hbm3, or amd-epyc-2c."""
    if gpu:
        return _slug(gpu[0].get("name", "gpu").removeprefix("NVIDIA"))
    model = re.sub(r"\(R\)|\(TM\)|CPU|Processor|@.*|\d+-Core", " ", cpu.get("model", platform.machine()))
    return f"{_slug(model) or 'cpu'}-{cpu.get('cpus_usable', 1)}c"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:48]


def _attempt(read: Callable[[], Any], otherwise: Any) -> Any:
    try:
        return read()
    except Exception:  # a missing file, tool or driver: the field stays empty
        return otherwise


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _cpu(root: Path) -> dict[str, Any]:
    info = _text(root / "proc/cpuinfo") or ""
    fields = {m[1].strip(): m[2].strip() for m in re.finditer(r"^([^:\n]+):(.*)$", info, re.MULTILINE)}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    described: dict[str, Any] = {
        "model": fields.get("model name") or _attempt(_model_elsewhere, None) or platform.machine(),
        "architecture": platform.machine(),
        "family_model_stepping": "/".join(fields.get(key, "?") for key in ("cpu family", "model", "stepping")),
        "isa": [name for name in ISA if name in flags],
        "cpus_logical": os.cpu_count(),
        "cores_physical": _attempt(_physical_cores, None),
        "cpus_usable": usable_cpus(),
        "quota_cpus": _quota(root),
        "caches": caches(root),
        "governor": _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "boost": _text(root / "sys/devices/system/cpu/cpufreq/boost"),
        "numa_nodes": len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) or None,
        "mhz_now": _attempt(lambda: round(float(fields["cpu MHz"])), None),
    }
    return {key: value for key, value in described.items() if value is not None}


def _model_elsewhere() -> str:
    import cpuinfo

    return cpuinfo.get_cpu_info()["brand_raw"]


def _physical_cores() -> int | None:
    import psutil

    return psutil.cpu_count(logical=False)


def _quota(root: Path) -> float | None:
    """CPUs that the container may use, from cgroup v2."""
    quota, _, period = (_text(root / "sys/fs/cgroup/cpu.max") or "").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def caches(root: Path = Path("/")) -> dict[str, dict[str, int]]:
    """Level -> bytes of one instance, and the logical CPUs that share it. Data and unified caches."""
    found: dict[str, dict[str, int]] = {}
    for index in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index[0-9]")):
        size, kind = _text(index / "size") or "", _text(index / "type")
        shared = _text(index / "shared_cpu_list") or ""
        if kind in ("Data", "Unified") and (match := re.fullmatch(r"(\d+)([KM])", size)):
            scale = {"K": 2**10, "M": 2**20}[match[2]]
            found[f"L{_text(index / 'level')}"] = {"bytes": int(match[1]) * scale, "shared_by": _list_length(shared)}
    return found


def _list_length(cpus: str) -> int:
    """Length of a kernel CPU list such as 0-3,8."""
    ends = [part.split("-") for part in cpus.split(",") if part]
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends) or 1


def _memory() -> dict[str, Any]:
    import psutil

    memory = psutil.virtual_memory()
    return {"total_bytes": memory.total, "available_bytes": memory.available}


def available_memory_bytes() -> int:
    """Memory that can still be taken without swapping; 0 where it is unknown."""
    return _attempt(_memory, {}).get("available_bytes", 0)


def _system(root: Path) -> dict[str, Any]:
    release = _text(root / "etc/os-release") or ""
    name = re.search(r'^PRETTY_NAME="?([^"\n]*)', release, re.MULTILINE)
    hypervisor = " hypervisor " in (_text(root / "proc/cpuinfo") or "")
    return {
        "os": name[1] if name else platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "virtual_machine": hypervisor,
        "container": (root / ".dockerenv").exists() or (root / "run/.containerenv").exists(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _torch_versions() -> dict[str, str]:
    import torch

    config = torch.__config__.show()
    found = {"cuda": torch.version.cuda or "", "cpu_capability": torch.backends.cpu.get_cpu_capability()}
    for name, pattern in (("onednn", r"MKL-DNN v([\w.]+)"), ("mkl", r"Math Kernel Library Version ([\w.]+)")):
        if match := re.search(pattern, config):
            found[name] = match[1]
    if torch.cuda.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version())
    found["flush_denormal"] = str(_flushes_denormals())
    return {key: value for key, value in found.items() if value}


def _flushes_denormals() -> bool:
    import torch

    return bool(torch.tensor(1e-39, dtype=torch.float32) * 1.0 == 0)


def _gpus() -> list[dict[str, Any]]:
    import torch

    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        {"name": d.name, "memory_bytes": d.total_memory, "compute_capability": f"{d.major}.{d.minor}",
         "multiprocessors": d.multi_processor_count, "l2_bytes": getattr(d, "L2_cache_size", None)}
        for d in devices
    ]  # fmt: skip


def _git_revision() -> str | None:
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    words = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=5)
    return done.stdout.strip() or None
