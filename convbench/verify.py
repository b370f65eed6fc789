"""Is an implementation right? Checked before it is timed, and again after on fresh operands.

Four trials before, one after (Checker.before, Checker.after), judged by every check of convbench.checks:

- integer-valued operands between bands of NaN: a kernel that claims to be exact must agree to the last bit;
  watched (convbench.watch): its own memory guarded and full of NaN, calls of torch's convolution noted
- the same not watched, which would keep torch.compile from compiling; into new memory again
- one NaN among the integers: must come out where it belongs, and nowhere else
- real-valued operands against float64, within a tolerance derived from the length of the sums
- after timing: real-valued operands the kernel has not seen
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

from convbench.case import Case
from convbench.checks import CHECKS, Expected, Outputs, Trial
from convbench.errors import STRANGERS_ERRORS
from convbench.operands import DATA, Operands, guarded, in_layout, integers, one_hot, poisoned, reals, rearranged
from convbench.plugin import Implementation, Kernel, Layout
from convbench.reference import reference
from convbench.untrusted import failure
from convbench.watch import Seen, watching

if TYPE_CHECKING:
    import torch

MOSTLY_ZERO = 0.7  # more zeros than this in the expected result, and agreement says little (benchdnn: MISTRUSTED)


@dataclass(frozen=True)
class Verification:
    """What was found. error and tolerance are relative L2 errors against float64; detail is one line."""

    status: Literal["ok", "mismatch", "error", "out_of_memory"]
    detail: str = ""
    error: float | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class Problem:
    """Operands and what must come of them."""

    operands: Operands
    expected: Expected
    integers: bool = False


Trials = Callable[[Callable[..., Trial]], Iterable[Trial]]  # how to call a kernel -> the calls made


class Checker:
    """Verifies any number of implementations of one case; the float64 references are computed once and shared."""

    def __init__(self, case: Case, seed: int = 0) -> None:
        self.case, self.seed = case, seed
        self._kept: dict[Layout, Operands] = {}

    def timing_operands(
        self, implementation: Implementation, kernel: Kernel, copied: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """The operands that are timed: the same values for all, in each one's layout, prepared if it prepares.

        copied: for a kernel that is not verified yet; what it writes to its operands hurts no other.
        """
        operands = self._timed(implementation.layout, self._reals_before)
        return _prepared({name: t.clone() for name, t in operands.items()} if copied else operands, kernel)

    def prepare(self) -> None:
        """Draw the data and compute the reference now, so that no implementation is charged for it."""
        _ = self._integers and self._with_nan, self._timed("nchw", self._reals_before)

    def renew(self) -> None:
        """Draw new data for after(), and let go of the old, so that no implementation is charged for it."""
        for name in ("_integers", "_with_nan", "_reals_before"):
            self.__dict__.pop(name, None)
        _ = self._reals_after

    def _timed(self, layout: Layout, problem: Problem) -> Operands:
        """The tensors that are timed in a layout, the same ones at every call, with the problem's values."""
        if layout not in self._kept:
            operands = in_layout(problem.operands, layout)
            self._kept[layout] = {name: tensor.clone() for name, tensor in operands.items()}
        for name, tensor in problem.operands.items():
            self._kept[layout][name].copy_(tensor)
        return self._kept[layout]

    def before(self, implementation: Implementation, kernel: Kernel) -> Verification:
        """Before timing. Never raises: what a kernel raises is its status."""
        return self._verify(implementation, kernel, self._trials_before)

    def after(self, implementation: Implementation, kernel: Kernel) -> Verification:
        """After timing: a few elements exchanged in the very tensors that were timed, so that what a kernel remembers
        by their addresses, sums or first elements is wrong. Never raises."""

        def trials(call: Callable[..., Trial]) -> list[Trial]:
            new = self._reals_after
            return [call(Problem(self._timed(implementation.layout, new), new.expected))]

        return self._verify(implementation, kernel, trials)

    def _verify(self, implementation: Implementation, kernel: Kernel, trials: Trials) -> Verification:
        try:
            found = judge(trials(partial(self._call, implementation, kernel)))
        except STRANGERS_ERRORS as error:
            found = Verification(*failure(error))
        return found if found.status == "ok" else self._with_reproducer(found, implementation)

    def _call(
        self,
        implementation: Implementation,
        kernel: Kernel,
        problem: Problem,
        guard: bool = False,
        watch: bool = False,
        earlier: tuple[Trial, ...] = (),
    ) -> Trial:
        operands = in_layout(problem.operands, implementation.layout)
        inputs = [guarded(tensor) for tensor in operands.values()] if guard else []
        if guard:
            operands = dict(zip(operands, (g.tensor for g in inputs), strict=True))
        arguments = _prepared(operands, kernel)
        results = [tuple(out.clone() for out in trial.outputs) for trial in earlier]
        with watching() if watch else nullcontext(Seen()) as seen:
            outputs = _as_tuple(kernel.run(*arguments))
        return Trial(
            self.case, kernel, implementation.family, outputs, problem.expected, problem.integers,
            inputs, seen, [trial.outputs for trial in earlier], _meddled(earlier, results),
        )  # fmt: skip

    def _trials_before(self, call: Callable[..., Trial]) -> Iterator[Trial]:
        problem = self._integers or self._reals_before
        yield (first := call(problem, guard=True, watch=True))
        yield call(problem, guard=True, earlier=(first,))
        if self._integers:
            yield call(self._with_nan)
            yield call(self._reals_before)

    def _with_reproducer(self, found: Verification, implementation: Implementation) -> Verification:
        case = self.case
        options = {"impl": implementation.name, "pass": case.pass_, "dtype": case.dtype, "device": case.device}
        options |= {"suite": case.suite, "case": case.name} if case.suite else {}
        line = "convbench verify " + " ".join(f"--{k} {shlex.quote(v)}" for k, v in options.items())
        detail = f"{found.detail}; to reproduce: {line} --seed {self.seed}  # {case.spec}"
        return Verification(found.status, detail, found.error, found.tolerance)

    @cached_property
    def _integers(self) -> Problem | None:
        operands = integers(self.case, self.seed)
        return None if operands is None else _problem(self.case, operands, integers=True)

    @cached_property
    def _with_nan(self) -> Problem:
        assert self._integers
        reached = tuple(out > 0 for out in reference(self.case, one_hot(self.case), "float32"))
        expected = self._integers.expected
        nan = Expected(expected.values, expected.compute_spread, reached)
        return Problem(poisoned(self.case, self._integers.operands), nan, integers=True)

    @cached_property
    def _reals_before(self) -> Problem:
        return _problem(self.case, reals(self.case, self.seed + 1))

    @cached_property
    def _reals_after(self) -> Problem:
        return _problem(self.case, rearranged(self.case, reals(self.case, self.seed + 1), self.seed + 2))


def _problem(case: Case, operands: Operands, integers: bool = False) -> Problem:
    def spread() -> Outputs:
        squares = {name: tensor.float().square() for name, tensor in operands.items()}
        return tuple(out.clamp_min_(0).sqrt_().double() for out in reference(case, squares, "float32"))

    return Problem(operands, Expected(reference(case, operands), spread), integers)


def judge(trials: Iterable[Trial]) -> Verification:
    """The first complaint of any check, at the first trial that earns one; otherwise the largest error on reals."""
    error: float | None = None
    for trial in trials:
        for check in CHECKS:
            if complaint := check(trial):
                return Verification("mismatch", f"{complaint} ({check.__name__.removeprefix('check_')})")
        if not trial.integers:
            error = max(error or 0.0, trial.error)
    return Verification("ok", mistrusted(trial.expected), error, trial.tolerance)


def mistrusted(expected: Expected) -> str:
    """A remark when the expected result is mostly zero, otherwise ""."""
    zeros = max(1 - int(values.count_nonzero()) / values.numel() for values in expected.values)
    return f"mistrusted: {zeros:.0%} of the expected result is zero" if zeros > MOSTLY_ZERO else ""


def _prepared(operands: Operands, kernel: Kernel) -> tuple[Any, ...]:
    """What run() gets. prepare() sees zeros in place of x and dy, which no user has before the call."""
    import torch

    if not kernel.prepare:
        return tuple(operands.values())
    shown = {name: torch.zeros_like(t) if name in DATA else t for name, t in operands.items()}
    prepared = kernel.prepare(*shown.values())
    pairs = zip(operands.items(), prepared, strict=True)
    return tuple(tensor if name in DATA else packed for (name, tensor), packed in pairs)


def _meddled(earlier: Iterable[Trial], results: list[Outputs]) -> bool:
    """Whether something of earlier calls was written to since their results were copied."""
    changed = (
        not out.equal(before)
        for trial, copies in zip(earlier, results, strict=True)
        for out, before in zip(trial.outputs, copies, strict=True)
    )
    return any(changed) or any(operand.intact() for trial in earlier for operand in trial.inputs)


def _as_tuple(outputs: Any) -> Outputs:
    return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)
