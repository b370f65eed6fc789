"""Time on a GPU: CUDA events around every call, the L2 cache flushed before it, or the caches left as they are (hot).

A sample during which the clock fell below 75% of the GPU's own is thrown away and taken again after a pause, as nvbench
does; not for ever, because a load that heats the GPU or reaches its power limit always runs slower. What the driver
said after each sample is kept, by call. The device waits until a sample is enqueued, so that the time is its own alone;
launch_s is the host's share, and captured() takes it away for all (CUDA graphs).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat
from statistics import median
from time import perf_counter, sleep
from typing import Any

from convbench.machine.gpu import Reading, Watch
from convbench.measure import Call
from convbench.results import GpuCell

SLOW_CLOCK = 0.75  # of the GPU's highest clock: nvbench's threshold
TRIES, PAUSE_S = 3, 0.05  # of one sample, and between them
MOST_PAUSES = 10  # of one case
LEAD_CYCLES = 200_000  # the device waits so long for each call of a sample to be enqueued, ...
MOST_AHEAD = 250  # ... for no more than this: its queue has an end
COLD_SAMPLE_S = 0.0003  # every call has events of its own: a sample need not be long against the clock
LAUNCHES = 20
ENERGY_S = 1.0  # the driver's counter moves a few times in a tenth of a second


@dataclass
class CudaTimer:
    """Seconds of device time that calls take.

    device    torch device string
    hot       leave the caches as they are
    watch     the driver's view of the GPU, where there is one
    readings  what it said after each sample, by call
    """

    device: str
    hot: bool = False
    watch: Watch | None = None
    readings: dict[Call, list[Reading]] = field(default_factory=lambda: defaultdict(list))
    discarded: dict[Call, int] = field(default_factory=lambda: defaultdict(int))
    _flushed: Any = None

    def __call__(self, call: Call, calls: int) -> float:
        for tries_left in reversed(range(TRIES)):
            seconds = self._sample(call, calls)
            reading = self.watch.reading() if self.watch else None
            slow = reading is not None and reading.is_slow(SLOW_CLOCK)
            if not slow or not tries_left or sum(self.discarded.values()) >= MOST_PAUSES:
                break
            self.discarded[call] += 1
            sleep(PAUSE_S)
        if reading:
            self.readings[call].append(reading)
        return seconds

    def _sample(self, call: Call, calls: int) -> float:
        import torch

        timed = 1 if self.hot else calls
        pairs = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(timed)]
        torch.cuda.synchronize(self.device)
        with torch.cuda.device(self.device):  # events are recorded on the current device's stream
            torch.cuda._sleep(LEAD_CYCLES * min(calls, MOST_AHEAD))
            for start, stop in pairs:
                self._flush()
                start.record()
                for _ in repeat(None, calls // timed):
                    call()
                stop.record()
        torch.cuda.synchronize(self.device)
        return sum(start.elapsed_time(stop) for start, stop in pairs) * 1e-3

    def _flush(self) -> None:
        import torch

        if self.hot:
            return
        if self._flushed is None:
            l2_bytes = torch.cuda.get_device_properties(self.device).L2_cache_size
            self._flushed = torch.empty(2 * l2_bytes, dtype=torch.int8, device=self.device)
        self._flushed.zero_()

    def cell(self, call: Call, original: Call) -> GpuCell:
        """What is known of a call that was timed. original: the same, not captured."""
        readings = self.readings[call]

        def of(pick: Callable[[Reading], float | None], summary: Callable[[list[float]], float]) -> float | None:
            values = [value for r in readings if (value := pick(r)) is not None]
            return summary(values) if values else None

        return GpuCell(
            clock_mhz=of(lambda r: r.clock_mhz, median),
            power_w=of(lambda r: r.power_w, median),
            temperature_c=of(lambda r: r.temperature_c, max),
            throttled=sorted({reason for r in readings for reason in r.throttled}),
            discarded=self.discarded[call],
            launch_s=launch_s(original, self.device),
            memory_bytes=memory_bytes(original, self.device),
            graph=call != original,
            no_readings=self.watch.reason if self.watch else "not watched",
        )


def launch_s(call: Call, device: str) -> float:
    """Seconds that the host takes to enqueue one call, the device not waited for."""
    import torch

    torch.cuda.synchronize(device)
    start = perf_counter()
    for _ in repeat(None, LAUNCHES):
        call()
    seconds = (perf_counter() - start) / LAUNCHES
    torch.cuda.synchronize(device)
    return seconds


def memory_bytes(call: Call, device: str) -> int:
    """Bytes allocated at the most while the call runs, beyond its operands: the result, and what it works with."""
    import torch

    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def captured(call: Call, device: str) -> Call:
    """The call as a CUDA graph: one launch, whatever it enqueues. It must have run before."""
    import torch

    with torch.cuda.device(device):
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = call()

    def replay(_kept: object = result) -> None:
        graph.replay()

    return replay


def energy_j(call: Call, device: str, watch: Watch, clock: Callable[[], float] = perf_counter) -> float | None:
    """Joules of one call, the GPU's idle power included, from the driver's counter over a second of them; None where it
    has none."""
    import torch

    before, calls, start = watch.energy_j(), 0, clock()
    if before is None:
        return None
    while clock() - start < ENERGY_S:
        for _ in repeat(None, LAUNCHES):
            call()
        torch.cuda.synchronize(device)
        calls += LAUNCHES
    after = watch.energy_j()
    return (after - before) / calls if after is not None and after > before else None
