"""Versions and state of the software that computes."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("convbench", "torch", "numba", "llvmlite", "numpy", "scipy", "triton")
_IN_TORCH = {
    "onednn": r"MKL-DNN v([\w.]+)",
    "mkl": r"Math Kernel Library Version ([\w.]+)",
    "compiler": r"GCC ([\w.]+)",
}
_DENORMAL = 1e-39  # float32


def versions() -> dict[str, str]:
    """Installed packages; nothing is imported."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def torch_versions() -> dict[str, str]:
    """What torch was built with. Imports torch."""
    import torch

    config = torch.__config__.show()
    found = {"cuda": torch.version.cuda or "", "cpu_capability": torch.backends.cpu.get_cpu_capability()}
    found |= {name: match[1] for name, pattern in _IN_TORCH.items() if (match := re.search(pattern, config))}
    if torch.cuda.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version())
    return {key: value for key, value in found.items() if value}


def state() -> dict[str, Any]:
    """Settings of the running process that change results or times. Imports torch."""
    import torch

    return {
        "flush_denormal": bool(torch.tensor(_DENORMAL, dtype=torch.float32) * 1.0 == 0),
        "torch_threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "mkldnn": bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "thread_pools": _thread_pools(),
    }


def _thread_pools() -> list[dict[str, Any]]:
    """OpenMP and BLAS libraries loaded, without their paths."""
    import threadpoolctl

    names = ("user_api", "internal_api", "prefix", "version", "num_threads")
    return [{name: pool[name] for name in names if pool.get(name)} for pool in threadpoolctl.threadpool_info()]


def git_revision() -> str | None:
    """Revision of convbench when it runs from a checkout, "-dirty" if it was edited."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    words = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=5)
    return done.stdout.strip() or None
