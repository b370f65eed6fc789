"""Noise: warnings from two made-up snapshots, exact to the letter."""

import dataclasses
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbench.machine.noise import Snapshot, snapshot, warnings

QUIET = Snapshot(
    cpus=2, steal_s=1.0, busy_s=500.0, all_s=1000.0, own_s=3.0, swapped_in_bytes=10 * 2**20,
    governor="performance", mhz=3500.0, quota_cpus=1.5, quota_throttled=4, heat_throttled=2,
)  # fmt: skip
# 100 s later on 2 CPUs: both were busy, by us, all the time but for a second.
QUIET_AFTER = dataclasses.replace(QUIET, busy_s=699.0, all_s=1200.0, own_s=201.0, mhz=3490.0)


def changed(**fields):
    return dataclasses.replace(QUIET_AFTER, **fields)


def test_a_quiet_machine_has_no_warnings():
    assert warnings(QUIET, QUIET_AFTER) == []


def test_an_unknown_machine_has_no_warnings():
    assert warnings(Snapshot(), Snapshot()) == []
    assert warnings(QUIET, Snapshot()) == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            QUIET,
            changed(own_s=171.0),
            "other programs kept 0.3 of 2 CPUs busy during the run: stop them, or measure with fewer --threads",
        ),
        (
            dataclasses.replace(QUIET, threads_s=1.0),
            changed(threads_s=91.0),
            "other threads of this process kept 0.9 CPUs busy during the run: end them, or measure in a new one",
        ),
        (
            QUIET,
            changed(steal_s=7.0),
            "3% of CPU time went to other guests of this host: believe ratios, not seconds, or use a dedicated machine",
        ),
        (
            QUIET,
            changed(quota_throttled=9),
            "the container's limit of 1.5 CPUs stopped this run 5 times: measure with --threads 1, or raise it",
        ),
        (
            QUIET,
            changed(heat_throttled=3),
            "the CPU throttled 1 times because of heat: cool it, or pause between runs",
        ),
        (
            QUIET,
            changed(mhz=3100.0),
            "the CPU clock fell from 3500 to 3100 MHz: fix the clock, or compare ratios only",
        ),
        (
            QUIET,
            changed(governor="powersave"),
            "CPU governor is powersave: `cpupower frequency-set -g performance` gives steadier clocks",
        ),
        (
            QUIET,
            changed(swapped_in_bytes=110 * 2**20),
            "100 MiB were swapped in during the run: free memory or choose smaller layers",
        ),
        (
            dataclasses.replace(QUIET, gpu_throttled=("thermal",)),
            changed(gpu_throttled=("power cap", "thermal")),
            "the GPU runs below its clock (power cap, thermal): cool it, or compare ratios only",
        ),
    ],
)
def test_each_disturbance_has_its_one_warning(before, after, expected):
    assert warnings(before, after) == [expected]


@pytest.mark.parametrize(
    "after",
    [
        changed(own_s=192.0),  # 0.10 CPUs
        changed(steal_s=3.0),  # 1%
        changed(swapped_in_bytes=74 * 2**20),  # 64 MiB
        changed(mhz=3150.0),  # 10%
    ],
)
def test_limits_themselves_are_still_quiet(after):
    assert warnings(QUIET, after) == []


def test_a_many_core_machine_may_have_a_little_going_on():
    before = dataclasses.replace(QUIET, cpus=64, busy_s=0.0, all_s=0.0, own_s=0.0)
    after = dataclasses.replace(before, all_s=6400.0, own_s=6000.0, busy_s=6060.0)  # 0.6 CPUs
    assert warnings(before, after) == []
    assert "1.0 of 64 CPUs" in warnings(before, dataclasses.replace(after, busy_s=6100.0))[0]


_NUMBER = st.none() | st.floats(0, 1e9)
_COUNT = st.none() | st.integers(0, 2**50)
_SNAPSHOTS = st.builds(
    Snapshot,
    cpus=st.integers(1, 512),
    **dict.fromkeys(("steal_s", "busy_s", "all_s", "mhz", "quota_cpus"), _NUMBER),
    **dict.fromkeys(("swapped_in_bytes", "quota_throttled", "heat_throttled"), _COUNT),
    own_s=st.floats(0, 1e9),
    governor=st.sampled_from([None, "performance", "schedutil"]),
    gpu_throttled=st.sampled_from([(), ("thermal",)]),
)


@given(_SNAPSHOTS, _SNAPSHOTS)
def test_any_two_snapshots_give_single_lines_with_advice(before, after):
    for line in warnings(before, after):
        assert "\n" not in line
        assert ": " in line


# The real counters ---------------------------------------------------------------------------------------------


def test_a_snapshot_of_a_machine_without_files_is_not_an_error(tmp_path):
    found = snapshot(tmp_path)
    assert (found.governor, found.quota_cpus, found.quota_throttled, found.heat_throttled) == (None,) * 4
    assert found.cpus >= 1


def test_files_are_read(tmp_path):
    files = {
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "2\n",
        "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "3\n",
        "sys/fs/cgroup/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/cpu.stat": "nr_throttled 8\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = snapshot(tmp_path)
    assert (found.governor, found.heat_throttled, found.quota_cpus, found.quota_throttled) == ("ondemand", 5, 1.5, 8)


def test_counters_that_fail_are_unknown(monkeypatch):
    import psutil

    def broken(*_, **__):
        raise OSError("no such counter")

    for name in ("cpu_times", "cpu_freq", "swap_memory"):
        monkeypatch.setattr(psutil, name, broken)
    found = snapshot()
    assert (found.busy_s, found.mhz, found.swapped_in_bytes) == (None,) * 3


def test_a_forgotten_thread_is_counted():
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            pass

    thread = threading.Thread(target=busy)
    before = snapshot()
    thread.start()
    try:
        time.sleep(0.3)
        after = snapshot()
    finally:
        stop.set()
        thread.join()
    assert after.threads_s - before.threads_s >= 0.1


def test_our_own_time_is_counted():
    before, used = snapshot(), time.process_time()
    while time.process_time() - used < 0.1:
        pass
    after = snapshot()
    assert after.own_s - before.own_s >= 0.08  # os.times counts in hundredths
