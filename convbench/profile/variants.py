"""What could be changed about a step, each tried on the whole model: kernels, layout, type, threads, flags, denormals.

A change is measured beside the step as it is, in interleaved rounds; gains of layers are never added up. One that
raises, gives another result, or is far slower at its first call, is reported and not sampled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from convbench.errors import STRANGERS_ERRORS
from convbench.measure import Samples, Timer, speedup
from convbench.nn import use_kernels
from convbench.nn.choice import layer_key
from convbench.profile.look import Seen, denormals
from convbench.profile.model import LayerRow, Variant
from convbench.profile.watch import forward, tensors
from convbench.profile.words import failure
from convbench.records import spec_of
from convbench.registry import REFERENCE
from convbench.suites.traced import Subject

HOPELESS = 3.0  # a change that takes so many times the step in the best of its first calls is not sampled
TRIES = 4
MOST_KERNELS = 3  # tried one by one
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


def changes(rows: Sequence[LayerRow], device: str, threads: int, usual_threads: int) -> list[Change]:
    """What is worth trying, for a step whose layers were measured."""
    found = []
    if wanted := best_kernels(rows):
        found.append(_kernels("kernels", wanted))
    if len(wanted) > 2:  # one of the layers may gain where all together do not
        found += [_kernels(f"kernel {layer}", {layer: wanted[layer], "*": REFERENCE}) for layer in _promising(rows)]
    if any(row.layout != "channels_last" for row in rows):
        found.append(Change("channels_last", prepared=_channels_last))
    if any(row.dtype == "float32" for row in rows):
        found.append(Change("bfloat16 autocast", lambda: torch.autocast(torch.device(device).type, torch.bfloat16)))
    if device == "cpu":
        for number in dict.fromkeys((max(threads // 2, 1), usual_threads)):
            if number != threads:
                found.append(Change(f"threads {number}", partial(_threads, number),
                                    detail={"usual": number == usual_threads}))  # fmt: skip
    return [*found, *flags(device)]


def flags(device: str) -> list[Change]:
    """Torch's switches that cost time as they are set, each the other way."""
    found = []
    if torch.are_deterministic_algorithms_enabled():
        found.append(Change("deterministic algorithms off", _any_algorithm))
    if device == "cpu":
        if not torch.backends.mkldnn.enabled:
            found.append(Change("oneDNN on", _onednn))
        return found
    cudnn = torch.backends.cudnn
    now = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic,
           "allow_tf32": cudnn.allow_tf32}  # fmt: skip
    for name, flag, wanted in (("cudnn.benchmark on", "benchmark", True), ("TF32 on", "allow_tf32", True),
                               ("cudnn.deterministic off", "deterministic", False)):  # fmt: skip
        if now[flag] != wanted:
            found.append(Change(name, partial(cudnn.flags, **now | {flag: wanted})))
    return found


def denormals_gone(seen: Sequence[Seen], device: str) -> list[Change]:
    """Numbers too small to be normal, where there are any: weights set to 0, and all of them taken for 0 on a CPU.

    The latter holds for the calling thread; others keep what they began with.
    """
    weights = any(call.weight_denormals for call in seen)
    found = [Change("no denormal weights", prepared=_flushed)] if weights else []
    if device == "cpu" and (weights or any(call.input_denormals for call in seen)):
        found.append(Change("flush denormals", _flush))
    return found


def best_kernels(rows: Sequence[LayerRow]) -> dict[str, str]:
    """What use_kernels takes: what clearly wins alone without a change of layout, torch's elsewhere; empty for none."""
    chosen = {f"{layer_key(spec_of(row))} {row.pass_}": row.swap_implementation for row in rows}
    wanted = {layer: name for layer, name in chosen.items() if name}
    return {**wanted, "*": REFERENCE} if wanted else {}


def _kernels(name: str, wanted: dict[str, str]) -> Change:
    return Change(name, lambda: use_kernels(wanted), detail={"use_kernels": wanted})


def _promising(rows: Sequence[LayerRow]) -> list[str]:
    """Layers and passes, as use_kernels names them, whose kernels promise most by their times alone."""
    promised: dict[str, float] = {}
    for row in rows:
        if row.swap_implementation and row.isolated_s and row.best_s:
            key = f"{layer_key(spec_of(row))} {row.pass_}"
            promised[key] = promised.get(key, 0.0) + row.calls * (row.isolated_s - row.best_s)
    return sorted(promised, key=lambda key: -promised[key])[:MOST_KERNELS]


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
    except STRANGERS_ERRORS as raised:
        return Trial(change, reason=failure(raised))
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
def _flush() -> Iterator[None]:
    before = not (torch.full((1,), torch.finfo(torch.float32).tiny) / 2).item()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextmanager
def _any_algorithm() -> Iterator[None]:
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=warn_only)


def _onednn() -> AbstractContextManager[Any]:
    mkldnn = torch.backends.mkldnn
    return mkldnn.flags(enabled=True, allow_tf32=mkldnn.allow_tf32)  # type: ignore[attr-defined]


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
