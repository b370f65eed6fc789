"""The same step as torch.profiler sees it: beside what convbench watched, and its own trace."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from convbench.errors import STRANGERS_ERRORS
from convbench.profile.model import Step
from convbench.profile.words import failure

STEPS = 3
CONVOLUTIONS = ("aten::convolution", "aten::convolution_backward")


@dataclass(frozen=True)
class Profiled:
    """Operator -> (calls, seconds) a step, callees included, on the device; and a Chrome trace of the steps.

    ``reason``: why there is neither.
    """

    operators: dict[str, tuple[float, float]] = field(default_factory=dict)
    trace: bytes = b""
    reason: str = ""

    def add_to(self, step: Step) -> None:
        """Its times beside those of the operators that were watched; of the same name, which repacking has not."""
        step.profiler_reason = self.reason
        if not self.operators:
            return
        step.profiler_convolutions_s = sum(self.operators.get(name, (0, 0.0))[1] for name in CONVOLUTIONS)
        for other in step.operators:
            if theirs := self.operators.get(f"aten::{other.operator}"):
                other.profiler_s = theirs[1]


def profiled(run: Callable[[], object], device: str) -> Profiled:
    """A few steps under torch.profiler, after one that is not kept; where it fails, the reason."""
    try:
        return _profiled(run, device)
    except STRANGERS_ERRORS as error:
        return Profiled(reason=failure(error))


def _profiled(run: Callable[[], object], device: str) -> Profiled:
    from torch.profiler import ProfilerActivity, profile

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise it prints that it begins and ends
    cuda = device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities, acc_events=True):
        run()
    with profile(activities=activities, acc_events=True) as seen:
        for _ in range(STEPS):
            run()
    operators = {
        each.key: (each.count / STEPS, 1e-6 * (each.device_time_total if cuda else each.cpu_time_total) / STEPS)
        for each in seen.key_averages()
    }
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        return Profiled(operators, path.read_bytes())
