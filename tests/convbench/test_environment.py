"""Environment: read from a made-up /proc and /sys, never failing, and nothing private in what is published."""

import getpass
import json
import platform
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convbench.machine import cgroup, environment, gpu, software
from convbench.machine.environment import caches, detect, machine_name, variables
from convbench.results import Environment

KIB, MIB = 2**10, 2**20

CPUINFO = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 85
model name\t: Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz
stepping\t: 4
cpu MHz\t\t: 2400.123
flags\t\t: fpu sse2 avx avx2 fma avx512f made_up hypervisor lahf_lm
"""


def machine(root, files):
    """A root folder with these files: {path: text}."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


CPU = "sys/devices/system/cpu"


def cache_files(cpu, index, level, kind, size, shared):
    folder = f"{CPU}/cpu{cpu}/cache/index{index}"
    return {
        f"{folder}/level": level,
        f"{folder}/type": kind,
        f"{folder}/size": size,
        f"{folder}/shared_cpu_list": shared,
    }


@pytest.fixture
def xeon(tmp_path):
    files = {"proc/cpuinfo": CPUINFO, "etc/os-release": 'NAME="x"\nPRETTY_NAME="Some Linux 1"\n', ".dockerenv": ""}
    for cpu in range(4):
        core = f"{cpu % 2},{cpu % 2 + 2}"  # 0 and 2 are the threads of one core
        files |= cache_files(cpu, 0, "1", "Data", "32K\n", core) | cache_files(cpu, 1, "1", "Instruction", "32K", core)
        files |= cache_files(cpu, 2, "2", "Unified", "1024K", core) | cache_files(cpu, 3, "3", "Unified", "28M", "0-3")
    files |= {
        f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave\n",
        f"{CPU}/cpu0/cpufreq/scaling_driver": "intel_pstate\n",
        f"{CPU}/cpu0/cpufreq/cpuinfo_max_freq": "3700000\n",
        f"{CPU}/intel_pstate/no_turbo": "1\n",
        f"{CPU}/smt/active": "1\n",
        "sys/devices/system/node/node0/cpulist": "0-1",
        "sys/devices/system/node/node1/cpulist": "2-3",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        "sys/class/dmi/id/sys_vendor": "Amazon EC2\n",
        "sys/class/dmi/id/product_name": "c5.xlarge\n",
        "sys/class/dmi/id/product_serial": "SERIAL-1234\n",
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
        "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/a/b/memory.max": "8589934592\n",
    }
    return machine(tmp_path, files)


def test_a_made_up_machine_is_read_in_full(xeon):
    found = detect(with_torch=False, root=xeon)
    cpu = found.cpu
    assert cpu["model"] == "Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz"
    assert cpu["family_model_stepping"] == "6/85/4"
    assert cpu["isa"] == ["sse2", "avx", "fma", "avx2", "avx512f"]
    assert cpu["caches"] == {
        "L1": {"bytes": 32 * KIB, "shared_by": 2, "instances": 2},
        "L2": {"bytes": MIB, "shared_by": 2, "instances": 2},
        "L3": {"bytes": 28 * MIB, "shared_by": 4, "instances": 1},
    }
    assert (cpu["governor"], cpu["frequency_driver"], cpu["boost"]) == ("powersave", "intel_pstate", False)
    assert (cpu["mhz_now"], cpu["mhz_max"], cpu["smt"], cpu["numa_nodes"]) == (2400, 3700, True, 2)
    assert cpu["quota_cpus"] == 1.5
    assert found.memory["limit_bytes"] == 8 * 2**30
    assert found.memory["huge_pages"] == "madvise"
    assert found.system["os"] == "Some Linux 1"
    assert found.system["hardware"] == "Amazon EC2 c5.xlarge"
    assert found.system["container"] is found.system["virtual_machine"] is True
    assert found.machine == f"intel-xeon-gold-6148-{cpu['cpus_usable']}c"
    assert "SERIAL" not in msgspec.json.encode(found).decode()


@pytest.mark.parametrize(("available", "expected"), [(2**40, 8 * 2**30), (2**20, 2**20)])
def test_available_memory_heeds_the_container(xeon, monkeypatch, available, expected):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2**41, available=available))
    assert environment.available_memory_bytes(xeon) == expected


def test_what_is_missing_is_left_out(tmp_path):
    found = detect(with_torch=False, root=tmp_path)
    assert {"governor", "boost", "smt", "quota_cpus", "numa_nodes", "mhz_max"}.isdisjoint(found.cpu)
    assert {"limit_bytes", "huge_pages"}.isdisjoint(found.memory)
    assert found.system["container"] is found.system["virtual_machine"] is False
    assert "hardware" not in found.system
    assert None not in found.cpu.values()
    assert found.machine.endswith(f"-{found.cpu['cpus_usable']}c")


def test_nonsense_in_the_files_is_left_out(xeon):
    for path in xeon.rglob("*"):
        if path.is_file():
            path.write_bytes(b"\xff\xfe nonsense [ 1-x,\n")
    found = detect(with_torch=False, root=xeon)
    assert {"boost", "smt", "quota_cpus", "mhz_now", "mhz_max"}.isdisjoint(found.cpu)
    assert "limit_bytes" not in found.memory


def test_nothing_that_fails_is_fatal(monkeypatch, tmp_path):
    def broken(*_, **__):
        raise RuntimeError("broken")

    for owner, names in {
        psutil: ("virtual_memory", "cpu_count"),
        environment: ("_cpu_elsewhere", "_caches_by_kernel"),
        cgroup: ("quota_cpus", "memory_limit_bytes"),
        software: ("torch_versions", "state", "git_revision"),
        gpu: ("describe",),
        environment.os: ("getloadavg",),
    }.items():
        for name in names:
            monkeypatch.setattr(owner, name, broken)
    found = detect(with_torch=True, root=tmp_path)
    assert (found.memory, found.gpu, found.load, found.git_revision) == ({}, [], {}, None)
    assert caches(tmp_path) == {}
    assert environment.available_memory_bytes(tmp_path) == 0
    assert found.cpu["cpus_usable"] >= 1


def test_caches_where_the_kernel_does_not_tell(monkeypatch, tmp_path):
    sizes = {"l1_data_cache_size": 64 * KIB, "l2_cache_size": 4 * MIB, "l3_cache_size": "unknown"}
    monkeypatch.setattr(environment, "_cpu_elsewhere", lambda: sizes)
    monkeypatch.setattr(environment.os, "cpu_count", lambda: 8)
    assert caches(tmp_path) == {
        "L1": {"bytes": 64 * KIB, "shared_by": 1, "instances": 8},
        "L2": {"bytes": 4 * MIB, "shared_by": 1, "instances": 8},
    }


def test_this_machine_with_torch():
    found = detect(with_torch=True)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Environment) == found
    assert found.versions["torch"] == torch.__version__
    assert found.system["flush_denormal"] is False
    assert found.system["torch_threads"] == torch.get_num_threads()
    assert found.memory["total_bytes"] > 0


def test_flushed_denormals_are_seen():
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush denormals")
    try:
        assert software.state()["flush_denormal"] is True
    finally:
        torch.set_flush_denormal(False)


def test_without_torch_nothing_heavy_is_imported():
    code = (
        "import sys; from convbench.machine.environment import detect; detect(with_torch=False); "
        "print(sorted({'torch', 'numba', 'scipy', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Names and privacy ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "gpus", "expected"),
    [
        ("AMD EPYC", [], "amd-epyc-2c"),
        ("AMD EPYC 9654 96-Core Processor", [], "amd-epyc-9654-2c"),
        ("Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz", [], "intel-core-i7-9750h-2c"),
        ("../../etc/passwd", [], "etc-passwd-2c"),
        ("\u7f16\u53f7", [], "cpu-2c"),
        ("AMD EPYC", [{"name": "NVIDIA H100 80GB HBM3"}], "h100-80gb-hbm3"),
        ("AMD EPYC", [{"name": "NVIDIA"}, {"name": "other"}], "gpu"),
        ("AMD EPYC", [{}], "gpu"),
    ],
)
def test_machine_name(model, gpus, expected):
    assert machine_name({"model": model, "cpus_usable": 2}, gpus) == expected


def test_processors_that_hide_their_number_have_names_of_their_own():
    zen3, zen5 = ({"model": "AMD EPYC", "cpus_usable": 2, "family_model_stepping": f} for f in ("25/1/1", "26/2/1"))
    assert (machine_name(zen3, []), machine_name(zen5, [])) == ("amd-epyc-f25m1-2c", "amd-epyc-f26m2-2c")
    assert machine_name(zen3 | {"model": "AMD EPYC 7763"}, []) == "amd-epyc-7763-2c"


@given(st.text(), st.lists(st.fixed_dictionaries({"name": st.text()}), max_size=1))
def test_any_machine_name_is_a_safe_folder(model, gpus):
    name = machine_name({"model": model, "cpus_usable": 2}, gpus)
    assert 0 < len(name) < 60
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert name[0] != "-" != name[-1]


def test_only_variables_that_change_results_are_kept_and_no_paths():
    given_ = {
        "OMP_NUM_THREADS": "4",
        "OMP_PLACES": "{0:4}:2",
        "KMP_AFFINITY": "compact",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "MALLOC_ARENA_MAX": "2",
        "NUMBA_CACHE_DIR": "/home/alice/numba",
        "TORCHINDUCTOR_CACHE_DIR": "/tmp/set/by/torch",
        "TORCH_HOME": r"C:\Users\alice\t",
        "LD_PRELOAD": "/home/alice/lib/libjemalloc.so.2:libtcmalloc.so",
        "TORCH_HUB_TOKEN": "hunter2",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "HOME": "/home/alice",
        "PATH": "/home/alice/bin",
        "MY_OMP_NUM_THREADS": "3",
    }
    assert variables(given_) == {
        "CUDA_VISIBLE_DEVICES": "0,1",
        "KMP_AFFINITY": "compact",
        "LD_PRELOAD": "libjemalloc.so.2 libtcmalloc.so",
        "MALLOC_ARENA_MAX": "2",
        "NUMBA_CACHE_DIR": "(a path)",
        "OMP_NUM_THREADS": "4",
        "OMP_PLACES": "{0:4}:2",
        "TORCH_HOME": "(a path)",
    }


def test_a_record_names_neither_host_nor_user_nor_folders(monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(Path.home() / "cache"))
    values = list(leaves(json.loads(msgspec.json.encode(detect(with_torch=True)))))
    assert any(value == environment.A_PATH for value in values)
    texts = [value for value in values if isinstance(value, str)]
    assert not [text for text in texts if str(Path.home()) in text or text.startswith("/")]
    assert not {platform.node(), socket.gethostname(), getpass.getuser()} & set(texts)


def leaves(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


# Containers ----------------------------------------------------------------------------------------------------


def test_the_tightest_limit_of_all_groups_counts(tmp_path):
    root = machine(tmp_path, {
        "proc/self/cgroup": "0::/pod/box\n",
        "sys/fs/cgroup/pod/box/cpu.max": "400000 100000", "sys/fs/cgroup/pod/cpu.max": "250000 100000",
        "sys/fs/cgroup/cpu.max": "max 100000",
        "sys/fs/cgroup/pod/box/memory.max": "max", "sys/fs/cgroup/pod/memory.max": "1000",
        "sys/fs/cgroup/pod/box/cpu.stat": "usage_usec 5\nnr_throttled 7\nthrottled_usec 9\n",
    })  # fmt: skip
    assert cgroup.quota_cpus(root) == 2.5
    assert cgroup.memory_limit_bytes(root) == 1000
    assert cgroup.throttled(root) == 7


def test_inside_a_container_the_mounted_root_is_the_group(tmp_path):
    files = {"proc/self/cgroup": "0::/not/visible/here\n", "sys/fs/cgroup/cpu.max": "50000 100000"}
    assert cgroup.quota_cpus(machine(tmp_path, files)) == 0.5


def test_version_1_limits(tmp_path):
    root = machine(tmp_path, {
        "proc/self/cgroup": "5:memory:/m\n4:cpu,cpuacct:/c\n0::/\n",
        "sys/fs/cgroup/cpu/c/cpu.cfs_quota_us": "300000", "sys/fs/cgroup/cpu/c/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/m/memory.limit_in_bytes": "12345",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/cpu/c/cpu.stat": "nr_periods 9\nnr_throttled 3\n",
    })  # fmt: skip
    assert cgroup.quota_cpus(root) == 3.0
    assert cgroup.memory_limit_bytes(root) == 12345
    assert cgroup.throttled(root) == 3


def test_no_limit_is_none(tmp_path):
    assert (cgroup.quota_cpus(tmp_path), cgroup.memory_limit_bytes(tmp_path), cgroup.throttled(tmp_path)) == (None,) * 3


# GPUs, made up ---------------------------------------------------------------------------------------------------


class Driver:
    """Stands for the module pynvml; ``bits`` are the reasons for a lower clock."""

    NVML_CLOCK_SM = 1

    def __init__(self, bits=0):
        self.bits, self.open = bits, 0

    def nvmlInit(self):
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid):
        assert uuid == "GPU-1234"
        return "handle"

    def nvmlSystemGetDriverVersion(self):
        return "555.1"

    def nvmlDeviceGetMaxClockInfo(self, handle, which):
        assert (handle, which) == ("handle", self.NVML_CLOCK_SM)
        return 1980

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        return 700_000

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return self.bits


@pytest.fixture
def one_gpu(monkeypatch):
    properties = SimpleNamespace(name="NVIDIA H100", total_memory=80, major=9, minor=0, multi_processor_count=132,
                                 L2_cache_size=50, uuid="1234")  # fmt: skip
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)


BY_TORCH = {
    "name": "NVIDIA H100",
    "memory_bytes": 80,
    "compute_capability": "9.0",
    "multiprocessors": 132,
    "l2_bytes": 50,
}


def test_a_gpu_by_torch_and_driver(one_gpu, monkeypatch):
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert gpu.describe() == [BY_TORCH | {"driver": "555.1", "mhz_max": 1980, "power_limit_w": 700.0}]
    assert driver.open == 0


def test_a_gpu_without_the_drivers_library(one_gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu.describe() == [BY_TORCH]
    assert gpu.throttle_reasons() == ()


@pytest.mark.parametrize(
    ("bits", "expected"),
    [(0, ()), (0x1 | 0x2, ()), (0x4, ("power cap",)), (0x20 | 0x40 | 0x80, ("power brake", "thermal"))],
)
def test_throttle_reasons(one_gpu, monkeypatch, bits, expected):
    monkeypatch.setitem(sys.modules, "pynvml", Driver(bits))
    assert gpu.throttle_reasons() == expected


def test_a_driver_that_fails_is_closed_and_forgotten(one_gpu, monkeypatch):
    driver = Driver()
    driver.nvmlSystemGetDriverVersion = lambda: 1 / 0
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert gpu.describe() == [BY_TORCH]
    assert driver.open == 0
