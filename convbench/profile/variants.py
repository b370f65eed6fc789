"""What could be changed about a step, each tried on the whole model: kernels, layout, type, threads, denormals.

A change is measured beside the step as it is, in interleaved rounds; gains of layers are never added up. One that
raises, gives another result, or is far slower at its first call, is reported and not sampled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from convbench.errors import STRANGERS_ERRORS
from convbench.measure import Samples, Timer, speedup
from convbench.nn import use_kernels
from convbench.nn.choice import layer_key
from convbench.profile.model import LayerRow, Variant
from convbench.profile.watch import denormals, forward, tensors
from convbench.records import spec_of
from convbench.registry import REFERENCE
from convbench.suites.traced import Subject

HOPELESS = 3.0  # a change that takes so many times the step in the best of its first calls is not sampled
TRIES = 4
LARGEST_ERROR = 0.05  # relative L2 difference of the output; bfloat16 keeps well below it

Run = Callable[[Subject], object]
Around = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Change:
    """A change by name: what to run the step in, and how the model is prepared; detail is shown with the result."""

    name: str
    around: Around = nullcontext
    prepared: Callable[[Subject], Subject] = lambda subject: subject
    detail: dict[str, Any] = field(default_factory=dict)


def changes(rows: Sequence[LayerRow], device: str, threads: int, usual_threads: int, dtype: str) -> list[Change]:
    """What is worth trying, for a step whose layers were measured."""
    found = []
    if wanted := best_kernels(rows):
        found.append(Change("kernels", lambda: use_kernels(wanted), detail={"use_kernels": wanted}))
    if any(row.layout != "channels_last" for row in rows):
        found.append(Change("channels_last", prepared=_channels_last))
    if dtype == "float32":
        found.append(Change("bfloat16 autocast", lambda: torch.autocast(torch.device(device).type, torch.bfloat16)))
    if device == "cpu":
        for number in dict.fromkeys((max(threads // 2, 1), usual_threads)):
            if number != threads:
                found.append(Change(f"threads {number}", lambda number=number: _threads(number)))  # type: ignore[misc]
    return found


def without_denormals() -> Change:
    """Weights that are too small to be normal numbers set to 0."""
    return Change("no denormal weights", prepared=_flushed)


def best_kernels(rows: Sequence[LayerRow]) -> dict[str, str]:
    """What use_kernels takes: what clearly wins alone without a change of layout, torch's elsewhere; empty for none."""
    chosen = {f"{layer_key(spec_of(row))} {row.pass_}": row.swap_implementation for row in rows}
    wanted = {layer: name for layer, name in chosen.items() if name}
    return {**wanted, "*": REFERENCE} if wanted else {}


@dataclass
class Trial:
    """A change on a model, ready to be sampled, or the reason why it is not."""

    change: Change
    call: Callable[[], object] | None = None
    error: float | None = None
    reason: str = ""

    def outcome(self, samples: Mapping[str, Samples], plain: str) -> Variant:
        """What came of it."""
        variant = Variant(name=self.change.name, error=self.error, reason=self.reason, detail=self.change.detail)
        if self.change.name in samples:
            ratio = speedup(samples[plain], samples[self.change.name])
            if ratio:
                variant.speedup, variant.ci_low, variant.ci_high = ratio.value, ratio.low, ratio.high
        return variant


def attempt(change: Change, subject: Subject, run: Run, plain_s: float, timer: Timer) -> Trial:
    """Prepare a change and call it a few times: it must run, agree with the model, and not be hopeless."""
    try:
        changed = change.prepared(subject)

        def call() -> None:
            with change.around():
                run(changed)

        with change.around():
            output = forward(changed)
        error = difference(forward(subject), output)
        del output
        if error is not None and not error <= LARGEST_ERROR:
            return Trial(change, error=error, reason=f"its output differs by {error:.1e}")
        call()
        seconds = min(timer(call, 1) for _ in range(TRIES))
    except STRANGERS_ERRORS as failure:
        return Trial(change, reason=f"{type(failure).__name__}: {' '.join(str(failure).split())[:200]}")
    if seconds > HOPELESS * plain_s:
        return Trial(change, error=error, reason=f"{seconds / plain_s:.1f} times slower in the best of {TRIES} calls")
    return Trial(change, call, error)


def difference(one: Any, other: Any) -> float | None:
    """Relative L2 difference of two outputs of a model; None where they hold no floating tensor."""
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    norm = sum(float(a.double().square().sum()) for a, _ in pairs)
    apart = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
    return (apart / norm) ** 0.5 if norm else None


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _channels_last(subject: Subject) -> Subject:
    def last(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

    args, kwargs = tree_map_only(torch.Tensor, last, (subject.args, subject.kwargs))
    model = copy.deepcopy(subject.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return replace(subject, model=model, args=args, kwargs=kwargs)


def _flushed(subject: Subject) -> Subject:
    model = copy.deepcopy(subject.model)
    for parameter in model.parameters():
        if parameter.is_floating_point() and denormals(parameter.data):
            parameter.data[parameter.data.abs() < torch.finfo(parameter.dtype).tiny] = 0
    return replace(subject, model=model)
