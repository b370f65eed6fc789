"""Timing on a GPU that is not there: what is flushed, bracketed, thrown away, kept and counted, in which order."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest
import torch

from convbench.machine import cuda_timer
from convbench.machine.cuda_timer import CudaTimer, captured, energy_j, launch_s, memory_bytes
from convbench.machine.gpu import Reading, Watch

L2_BYTES = 1000
TAKES_MS = {"call": 2.0, "flush": 5.0, "sleep": 1.0, "replay": 1.5}


class Device:
    """A GPU's stream as a list of what was enqueued; its clock moves by what each thing takes."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.now = 0.0

    def enqueue(self, what: str) -> None:
        self.log.append(what)
        self.now += TAKES_MS[what]

    def call(self) -> str:
        self.enqueue("call")
        return "result"


@pytest.fixture
def device(monkeypatch) -> Device:
    device, cuda = Device(), torch.cuda

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = device.now

        def elapsed_time(self, stop) -> float:
            return stop.at - self.at

    class Graph:
        def replay(self) -> None:
            device.enqueue("replay")

    @contextmanager
    def capturing(graph):
        now, log = device.now, list(device.log)
        yield
        device.now, device.log[:] = now, log

    @contextmanager
    def on(name):
        yield

    def empty(size, dtype, device):
        assert (size, dtype) == (2 * L2_BYTES, torch.int8)
        return SimpleNamespace(zero_=lambda: fake.enqueue("flush"))

    fake = device
    for name, value in {
        "Event": Event, "CUDAGraph": Graph, "graph": capturing, "device": on, "synchronize": lambda device: None,
        "_sleep": lambda cycles: fake.enqueue("sleep"), "memory_allocated": lambda device: 100,
        "get_device_properties": lambda device: SimpleNamespace(L2_cache_size=L2_BYTES, uuid="u"),
        "reset_peak_memory_stats": lambda device: None, "max_memory_allocated": lambda device: 160,
    }.items():  # fmt: skip
        monkeypatch.setattr(cuda, name, value)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(cuda_timer, "sleep", lambda seconds: fake.log.append("pause"))
    return device


class Driver(Watch):
    """A driver whose clock is read from a list."""

    def __init__(self, *clocks: float) -> None:
        self.reason, self.clocks = "", list(clocks)

    def reading(self) -> Reading:
        clock = self.clocks.pop(0) if len(self.clocks) > 1 else self.clocks[0]
        return Reading(clock, 1000, 300 + clock / 10, 60, ("thermal",) if clock < 750 else ())


def test_every_cold_call_has_events_of_its_own_and_the_flush_before_it_is_not_timed(device):
    assert CudaTimer("cuda:0")(device.call, 3) == pytest.approx(3 * 2e-3)
    assert device.log == ["sleep", *["flush", "call"] * 3]


def test_hot_calls_are_timed_together_and_nothing_is_flushed(device):
    assert CudaTimer("cuda:0", hot=True)(device.call, 3) == pytest.approx(3 * 2e-3)
    assert device.log == ["sleep", "call", "call", "call"]


def test_samples_at_a_low_clock_are_taken_again_after_a_pause(device):
    timer = CudaTimer("cuda:0", watch=Driver(700, 740, 900))
    timer(device.call, 1)
    cell = timer.cell(device.call, device.call)
    assert device.log.count("pause") == 2
    assert device.log[: device.log.index("pause")].count("call") == 1
    assert (cell.discarded, cell.clock_mhz, cell.power_w, cell.throttled) == (2, 900, 390, [])
    assert cell.temperature_c == 60


def test_a_clock_that_stays_low_is_kept_and_said(device):
    timer = CudaTimer("cuda:0", watch=Driver(700))
    for _ in range(100):
        timer(device.call, 1)
    cell = timer.cell(device.call, device.call)
    assert device.log.count("pause") == cell.discarded == cuda_timer.MOST_PAUSES
    assert (cell.clock_mhz, cell.throttled) == (700, ["thermal"])


def test_calls_are_told_apart_and_without_a_driver_there_is_a_reason(device):
    timer, other = CudaTimer("cuda:0", watch=Driver(800, 900)), SimpleNamespace(call=lambda: None)
    timer(device.call, 1)
    timer(other.call, 1)
    assert timer.cell(device.call, device.call).clock_mhz == 800
    assert timer.cell(other.call, other.call).clock_mhz == 900
    unwatched = CudaTimer("cuda:0").cell(device.call, device.call)
    assert (unwatched.clock_mhz, unwatched.no_readings) == (None, "not watched")


def test_a_graph_replays_what_was_captured(device):
    replay = captured(device.call, "cuda:0")
    assert device.log == []
    assert CudaTimer("cuda:0", hot=True)(replay, 2) == pytest.approx(2 * 1.5e-3)
    timer = CudaTimer("cuda:0", watch=Driver(900))
    assert timer.cell(replay, device.call).graph
    assert not timer.cell(device.call, device.call).graph


def test_launches_and_memory(device, monkeypatch):
    monkeypatch.setattr(cuda_timer, "perf_counter", iter([1.0, 3.0]).__next__)
    assert launch_s(device.call, "cuda:0") == pytest.approx(2.0 / cuda_timer.LAUNCHES)
    assert device.log == ["call"] * cuda_timer.LAUNCHES
    assert memory_bytes(device.call, "cuda:0") == 60


def nvml(**changed) -> ModuleType:
    """The driver's library with a quiet GPU."""
    module = ModuleType("pynvml")
    answers = {
        "nvmlInit": lambda: None, "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetClockInfo": lambda handle, kind: 1500, "nvmlDeviceGetMaxClockInfo": lambda handle, kind: 1980,
        "nvmlDeviceGetPowerUsage": lambda handle: 350_000, "nvmlDeviceGetTemperature": lambda handle, sensor: 55,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: 0x04, "NVML_CLOCK_SM": 1,
        "NVML_TEMPERATURE_GPU": 0, "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 5000,
    }  # fmt: skip
    vars(module).update(answers | changed)
    return module


def raising(*arguments):
    raise RuntimeError("Not Supported")


def test_what_the_driver_says(device, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    watch = Watch("cuda:0")
    assert watch.reading() == Reading(1500, 1980, 350.0, 55, ("power cap",))
    assert not watch.reading().is_slow(0.75)
    assert watch.energy_j() == 5.0


def test_a_driver_that_does_not_know_everything(device, monkeypatch):
    unknown = ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetCurrentClocksThrottleReasons")
    monkeypatch.setitem(sys.modules, "pynvml", nvml(**dict.fromkeys(unknown, raising)))
    assert Watch("cuda:0").reading() == Reading(1500, 1980, None, 55, ())


@pytest.mark.parametrize(
    ("library", "reason"),
    [(None, "nvidia-ml-py is not installed"), (nvml(nvmlInit=raising), "the driver does not answer: Not Supported")],
)
def test_without_a_driver_the_reason_is_in_the_record(device, monkeypatch, library, reason):
    monkeypatch.setitem(sys.modules, "pynvml", library)
    timer = CudaTimer("cuda:0", watch=Watch("cuda:0"))
    assert timer(device.call, 1) > 0
    cell = timer.cell(device.call, device.call)
    assert (cell.clock_mhz, cell.power_w, cell.no_readings) == (None, None, reason)
    assert energy_j(device.call, "cuda:0", timer.watch) is None


def test_energy_is_counted_over_a_window(device, monkeypatch):
    joules = iter([10_000, 14_000])
    counter = nvml(nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(joules))
    monkeypatch.setitem(sys.modules, "pynvml", counter)
    ticks = iter([0.0, 0.4, 0.9, 1.1])
    found = energy_j(device.call, "cuda:0", Watch("cuda:0"), ticks.__next__)
    assert found == pytest.approx(4.0 / (2 * cuda_timer.LAUNCHES))
