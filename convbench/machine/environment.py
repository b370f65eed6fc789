"""The machine and the software, as far as they can change a result. Never fails: what is unknown is left out.

Nothing in it identifies a person or a host: records are published. No host name, serial number or path.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from convbench.machine import cgroup
from convbench.process import usable_cpus
from convbench.results import Environment

ISA = (
    *("sse2", "sse4_2", "avx", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_bf16"),
    *("avx512_fp16", "avx512_vnni", "amx_tile", "amx_bf16", "neon", "asimd", "asimdhp", "sve", "sve2", "bf16"),
)
VARIABLES = re.compile(
    r"(OMP|GOMP|KMP|MKL|OPENBLAS|BLIS|NUMBA|DNNL|ONEDNN|TORCH|TORCHINDUCTOR|CUDNN|CUBLAS|MALLOC)_[A-Z0-9_]+"
    r"|CUDA_VISIBLE_DEVICES|GLIBC_TUNABLES|LD_PRELOAD|TRITON_INTERPRET"
)
SECRETS = re.compile(r"TOKEN|SECRET|PASSW|KEY|CREDENTIAL")
SET_BY_TORCH = "TORCHINDUCTOR_CACHE_DIR"  # when it compiles: no setting of the user's
A_PATH = "(a path)"
CPUS = "sys/devices/system/cpu"


def detect(with_torch: bool = True, root: Path = Path("/")) -> Environment:
    """Describe this machine. with_torch also asks torch, importing it; root is where /proc and /sys are."""
    from convbench.machine import gpu, software

    cpu = _attempt(lambda: _cpu(root), {})
    gpus = _attempt(gpu.describe, []) if with_torch else []
    return Environment(
        machine=machine_name(cpu, gpus),
        cpu=cpu,
        memory=_attempt(lambda: _memory(root), {}),
        gpu=gpus,
        system=_attempt(lambda: _system(root), {}) | (_attempt(software.state, {}) if with_torch else {}),
        versions=software.versions() | (_attempt(software.torch_versions, {}) if with_torch else {}),
        variables=variables(os.environ),
        load=_attempt(_load, {}),
        git_revision=_attempt(software.git_revision, None),
    )


def machine_name(cpu: dict[str, Any], gpus: list[dict[str, Any]]) -> str:
    """Short and safe as a folder: h100-80gb-hbm3, amd-epyc-9654-96c; or amd-epyc-f25m17-2c: family and model, where a
    virtual machine hides the processor's number."""
    if gpus:
        return _slug(str(gpus[0].get("name", "")).removeprefix("NVIDIA")) or "gpu"
    model = re.sub(r"\(R\)|\(TM\)|CPU|Processor|@.*|\d+-Core", " ", str(cpu.get("model", platform.machine())))
    if not re.search(r"\d", model) and (parts := str(cpu.get("family_model_stepping", "")).split("/"))[1:]:
        model += f" f{parts[0]}m{parts[1]}"
    return f"{_slug(model) or 'cpu'}-{cpu.get('cpus_usable', 1)}c"


def variables(environ: Iterable[tuple[str, str]] | Any) -> dict[str, str]:
    """Variables that change threads, kernels or memory. Paths may name a person: libraries keep their file name."""
    found = {}
    for name, value in sorted(dict(environ).items()):
        if VARIABLES.fullmatch(name) and not SECRETS.search(name) and name != SET_BY_TORCH:
            found[name] = (
                _libraries(value) if name == "LD_PRELOAD" else A_PATH if re.search(r"[/\\~]", value) else value
            )
    return found


def available_memory_bytes(root: Path = Path("/")) -> int:
    """Memory that this process can still take without swapping; 0 where it is unknown."""
    memory = _attempt(lambda: _memory(root), {})
    return min(memory.get("available_bytes", 0), memory.get("limit_bytes", 2**62))


def caches(root: Path = Path("/")) -> dict[str, dict[str, int]]:
    """Level -> bytes of one instance, logical CPUs that share it, instances. Data and unified caches."""
    return _attempt(lambda: _caches_by_kernel(root), {}) or _attempt(_caches_elsewhere, {})


# Pieces: each may raise, detect() then leaves its part out -----------------------------------------------------


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


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value not in (None, "", [], {})}


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:48].strip("-")


def _libraries(value: str) -> str:
    return " ".join(re.split(r"[/\\]", part)[-1] for part in re.split(r"[\s:]+", value) if part)


def _cpu(root: Path) -> dict[str, Any]:
    info = _text(root / "proc/cpuinfo") or ""
    fields = {m[1].strip(): m[2].strip() for m in re.finditer(r"^([^:\n]+):(.*)$", info, re.MULTILINE)}
    other = {} if "model name" in fields else _attempt(_cpu_elsewhere, {})
    flags = set((fields.get("flags") or fields.get("Features") or "").split()) or set(other.get("flags", ()))
    cpufreq = root / CPUS / "cpu0/cpufreq"
    return _known({
        "model": fields.get("model name") or other.get("brand_raw") or platform.machine(),
        "architecture": platform.machine(),
        "family_model_stepping": "/".join(fields[k] for k in ("cpu family", "model", "stepping") if k in fields),
        "isa": [name for name in ISA if name in flags],
        "cpus_logical": os.cpu_count(),
        "cores_physical": _attempt(_physical_cores, None),
        "cpus_usable": usable_cpus(),
        "quota_cpus": _attempt(lambda: cgroup.quota_cpus(root), None),
        "caches": caches(root),
        "numa_nodes": len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) or None,
        "smt": {"1": True, "0": False}.get(_text(root / CPUS / "smt/active") or ""),
        "governor": _text(cpufreq / "scaling_governor"),
        "frequency_driver": _text(cpufreq / "scaling_driver"),
        "boost": _boost(root),
        "mhz_now": _attempt(lambda: round(float(fields["cpu MHz"])), None),
        "mhz_max": _attempt(lambda: int(_text(cpufreq / "cpuinfo_max_freq") or "") // 1000, None),
    })  # fmt: skip


def _cpu_elsewhere() -> dict[str, Any]:
    """py-cpuinfo's answer, for systems other than Linux on x86: it takes a fifth of a second and more."""
    import cpuinfo

    return cpuinfo.get_cpu_info()


def _physical_cores() -> int | None:
    import psutil

    return psutil.cpu_count(logical=False)


def _boost(root: Path) -> bool | None:
    """May the clock rise above its nominal value?"""
    boost, no_turbo = (_text(root / CPUS / name) for name in ("cpufreq/boost", "intel_pstate/no_turbo"))
    return {"1": True, "0": False}.get(boost or "", {"0": True, "1": False}.get(no_turbo or ""))


def _caches_by_kernel(root: Path) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for index in sorted((root / CPUS / "cpu0/cache").glob("index[0-9]")):
        size, kind = _text(index / "size") or "", _text(index / "type")
        if kind in ("Data", "Unified") and (match := re.fullmatch(r"(\d+)([KM])", size)):
            every = (root / CPUS).glob(f"cpu[0-9]*/cache/{index.name}/shared_cpu_list")
            found[f"L{_text(index / 'level')}"] = {
                "bytes": int(match[1]) * {"K": 2**10, "M": 2**20}[match[2]],
                "shared_by": _list_length(_text(index / "shared_cpu_list") or ""),
                "instances": len({_text(path) for path in every}) or 1,
            }
    return found


def _caches_elsewhere() -> dict[str, dict[str, int]]:
    info, cpus = _cpu_elsewhere(), os.cpu_count() or 1
    names = {"L1": ("l1_data_cache_size", 1), "L2": ("l2_cache_size", 1), "L3": ("l3_cache_size", cpus)}
    return {
        level: {"bytes": info[name], "shared_by": shared, "instances": cpus // shared}
        for level, (name, shared) in names.items()
        if isinstance(info.get(name), int) and info[name] > 0
    }


def _list_length(cpus: str) -> int:
    """Length of a kernel CPU list such as 0-3,8."""
    ends = [part.split("-") for part in cpus.split(",") if part]
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends) or 1


def _memory(root: Path) -> dict[str, Any]:
    import psutil

    memory, pages = psutil.virtual_memory(), _text(root / "sys/kernel/mm/transparent_hugepage/enabled") or ""
    chosen = re.search(r"\[(\w+)\]", pages)
    return _known({"total_bytes": memory.total, "available_bytes": memory.available,
                   "limit_bytes": _attempt(lambda: cgroup.memory_limit_bytes(root), None),
                   "huge_pages": chosen[1] if chosen else None})  # fmt: skip


def _system(root: Path) -> dict[str, Any]:
    release = _text(root / "etc/os-release") or ""
    name = re.search(r'^PRETTY_NAME="?([^"\n]*)', release, re.MULTILINE)
    hardware = [_text(root / "sys/class/dmi/id" / field) for field in ("sys_vendor", "product_name")]
    return _known({
        "os": name[1] if name else platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "hardware": " ".join(filter(None, hardware)),
        "virtual_machine": " hypervisor " in f"{_text(root / 'proc/cpuinfo')} ",
        "container": (root / ".dockerenv").exists() or (root / "run/.containerenv").exists(),
    })  # fmt: skip


def _load() -> dict[str, float]:
    return dict(zip(("average_1min", "average_5min", "average_15min"), os.getloadavg(), strict=True))
