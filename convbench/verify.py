"""Is an implementation right? Checked before it is timed, and again after on fresh operands.

- integer-valued operands: every sum is exact in float32, so a kernel that claims to be exact must agree bit
  for bit (benchdnn's method); the operands lie between bands of NaN, outputs are allocated full of NaN
- real-valued operands: ||out - ref|| / ||ref|| and the largest single error against float64, within a
  tolerance derived from the reduction length
- NaN in must come out; NaN never passes as a number
- each run is watched: writing to operands or around them, writing around outputs, leaving elements
  unwritten, returning old memory, calling torch's own convolution from another family

``CHECKS`` is the whole list; tests/kernels/broken.py has a kernel that each of them must catch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from convbench.case import Case
from convbench.operands import Guarded, Operands, guarded, in_layout, integers, reals, reduction_length
from convbench.plugin import Implementation, Kernel
from convbench.reference import reference

if TYPE_CHECKING:
    import torch

# Probabilistic rounding bound of a sum of n terms in any order: lambda * sqrt(n) * u, Higham and Mary, "A New
# Approach to Probabilistic Rounding Error Analysis" (SIAM J. Sci. Comput. 41, 2019), Theorem 2.4. It holds for
# each element but for 2 exp(-lambda^2 / 2); an L2 norm averages over elements, one element is a maximum of many.
LAMBDA_NORM = 4.0
LAMBDA_ELEMENT = 32.0
UNIT_ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53, "float16": 2.0**-11, "bfloat16": 2.0**-8}
MOSTLY_ZERO = 0.7  # benchdnn calls a case mistrusted when too little of the output is not zero

Outputs = tuple["torch.Tensor", ...]


@dataclass(frozen=True)
class Verification:
    """What was found. error and tolerance are relative L2 errors against float64; detail is one line."""

    status: Literal["ok", "mismatch", "error", "out_of_memory"]
    detail: str = ""
    error: float | None = None
    tolerance: float | None = None


@dataclass
class Trial:
    """One call of a kernel and all that was seen of it; checks look at nothing else."""

    case: Case
    kernel: Kernel
    family: str
    outputs: Outputs
    expected: Outputs
    exact: bool  # integer-valued operands
    inputs: list[Guarded] = field(default_factory=list)
    allocated: list[Guarded] = field(default_factory=list)
    torch_calls: list[str] = field(default_factory=list)
    must_be_nan: Outputs = ()

    @cached_property
    def error(self) -> float:
        """Largest ||out - ref|| / ||ref|| over the outputs."""
        return max(relative_error(o, e) for o, e in zip(self.outputs, self.expected, strict=True))

    @property
    def tolerance(self) -> float:
        return tolerance(self.case, self.kernel.error_factor)


class CannotVerify(Exception):
    """The operands do not tell right from wrong."""


def tolerance(case: Case, error_factor: float = 1.0) -> float:
    """Largest relative L2 error allowed: lambda sqrt(n) u for the sum, and u for rounding to the dtype."""
    accumulate = UNIT_ROUNDOFF["float64" if case.dtype == "float64" else "float32"]
    sums = LAMBDA_NORM * reduction_length(case) ** 0.5 * accumulate * error_factor
    return sums + 2 * UNIT_ROUNDOFF[case.dtype]


def relative_error(out: torch.Tensor, expected: torch.Tensor) -> float:
    """||out - expected|| / ||expected|| in float64; infinite when NaN."""
    import torch

    difference = torch.linalg.vector_norm(out.double() - expected)
    scale = torch.linalg.vector_norm(expected)
    value = float(difference / scale if scale > 0 else difference)
    return value if value == value else float("inf")


# Checks -----------------------------------------------------------------------------------------
# Each answers "" or what is wrong, in the order in which the answers are most useful.


def check_result_type(t: Trial) -> str:
    """Tensors of the right number, shape, dtype and device."""
    import torch

    shapes = t.case.output_shapes
    if len(t.outputs) != len(shapes):
        return f"returned {len(t.outputs)} tensors, expected {len(shapes)}"
    for out, shape in zip(t.outputs, shapes, strict=True):
        if not isinstance(out, torch.Tensor):
            return f"returned a {type(out).__name__}, expected a torch.Tensor"
        if tuple(out.shape) != shape:
            return f"returned shape {list(out.shape)}, expected {list(shape)}"
        if out.dtype != getattr(torch, t.case.dtype):
            return f"returned {out.dtype}, expected {t.case.dtype}"
        if out.device != torch.device(t.case.device):
            return f"returned a tensor on {out.device}, expected {t.case.device}"
    return ""


def check_inputs_intact(t: Trial) -> str:
    """Nothing was written to the operands or around them."""
    for name, operand in zip(t.case.operand_names, t.inputs, strict=False):
        if found := operand.intact():
            return f"{name}: {found}"
    return ""


def check_outputs_bounds(t: Trial) -> str:
    """Nothing was written around the outputs."""
    return "wrote outside a tensor it allocated" if any(a.intact() for a in t.allocated) else ""


def check_no_alias(t: Trial) -> str:
    """The result is new memory, not an operand's."""
    taken = {operand.buffer.untyped_storage().data_ptr() for operand in t.inputs}
    if any(out.untyped_storage().data_ptr() in taken for out in t.outputs):
        return "returned memory of an operand, expected a new tensor"
    return ""


def check_no_fallback(t: Trial) -> str:
    """Only the torch family may call torch's convolution."""
    return f"fell back to {t.torch_calls[0]}" if t.torch_calls and t.family != "torch" else ""


def check_nan_propagates(t: Trial) -> str:
    """A NaN in an operand reaches every element that depends on it."""
    lost = sum(int((mask & ~out.isnan()).sum()) for mask, out in zip(t.must_be_nan, t.outputs, strict=False))
    return f"{lost} elements should be NaN and are not: a NaN in the input was lost" if lost else ""


def check_written(t: Trial) -> str:
    """Every element is a number: memory was NaN before, and the operands hold none."""
    if t.must_be_nan:
        return ""
    for out in t.outputs:
        bad = int((~out.isfinite()).sum())
        if bad:
            return f"{bad} of {out.numel()} elements are NaN or infinite: not written, or read outside an operand"
    return ""


def check_exact(t: Trial) -> str:
    """Equal to the last bit on integers, for a kernel that adds and multiplies plainly."""
    if not (t.exact and t.kernel.exact) or t.must_be_nan:
        return ""
    for out, expected in zip(t.outputs, t.expected, strict=True):
        wrong = out != expected.to(out.dtype)
        if bool(wrong.any()):
            at = wrong.nonzero()[0].tolist()
            got, want = float(out[tuple(at)]), float(expected[tuple(at)])
            return (
                f"{int(wrong.sum())} of {out.numel()} elements differ on integers, first at {at}: {got:g} not {want:g}"
            )
    return ""


def check_error(t: Trial) -> str:
    """The whole result is near float64."""
    if t.must_be_nan or t.error <= t.tolerance:
        return ""
    return f"relative error {t.error:.2e}, allowed {t.tolerance:.2e}"


def check_largest_error(t: Trial) -> str:
    """No single element is far from float64, in units of the typical rounding of the sum."""
    if t.must_be_nan:
        return ""
    for out, expected in zip(t.outputs, t.expected, strict=True):
        typical = float(expected.square().mean().sqrt())
        allowed = t.tolerance * LAMBDA_ELEMENT / LAMBDA_NORM * typical
        difference = (out.double() - expected).abs()
        # Rounding to a short dtype is relative to the element, the sum's error to the typical one.
        worst = float((difference - 2 * UNIT_ROUNDOFF[t.case.dtype] * expected.abs()).max())
        if worst > allowed:
            return f"largest error of one element {worst:.2e}, allowed {allowed:.2e}"
    return ""


CHECKS: tuple[Callable[[Trial], str], ...] = (
    check_result_type,
    check_inputs_intact,
    check_outputs_bounds,
    check_no_alias,
    check_no_fallback,
    check_nan_propagates,
    check_written,
    check_exact,
    check_error,
    check_largest_error,
)


def judge(trials: list[Trial]) -> Verification:
    """The first complaint of any check in any trial, otherwise the largest error seen on real numbers."""
    for trial in trials:
        for check in CHECKS:
            if complaint := check(trial):
                return Verification("mismatch", f"{complaint} ({check.__name__.removeprefix('check_')})")
    errors = [trial.error for trial in trials if not trial.exact]
    return Verification("ok", "", max(errors, default=None), trials[0].tolerance if trials else None)


# Trials -----------------------------------------------------------------------------------------


class Checker:
    """Verifies any number of implementations of one case; references are computed once and shared."""

    def __init__(self, case: Case, seed: int = 0) -> None:
        self.case, self.seed = case, seed

    def timing_operands(self, implementation: Implementation, kernel: Kernel) -> tuple[torch.Tensor, ...]:
        """The operands that are timed: the same values for all, in each one's layout, prepared if it prepares."""
        return self._prepared(in_layout(self._reals_before[0], implementation.layout), kernel)

    def before(self, implementation: Implementation, kernel: Kernel) -> Verification:
        """Before timing: integers (guarded and watched), a NaN, real numbers."""
        return self._verify(
            lambda: [
                *([self._watched(implementation, kernel)] if self._integers else []),
                *([self._with_nan(implementation, kernel)] if self._integers else []),
                self._plain(implementation, kernel, *self._reals_before),
            ]
        )

    def after(self, implementation: Implementation, kernel: Kernel) -> Verification:
        """After timing: real numbers the kernel has not seen."""
        return self._verify(lambda: [self._plain(implementation, kernel, *self._reals_after)])

    def _verify(self, trials: Callable[[], list[Trial]]) -> Verification:
        try:
            return judge(trials())
        except Exception as error:  # a stranger's code: report it, go on
            return Verification(*failure(error))

    @cached_property
    def _integers(self) -> tuple[Operands, Outputs] | None:
        operands = integers(self.case, self.seed)
        if operands is None:
            return None
        expected = reference(self.case, operands)
        if any(float((e == 0).double().mean()) > MOSTLY_ZERO for e in expected if e.numel() > 64):
            return None
        return operands, expected

    @cached_property
    def _reals_before(self) -> tuple[Operands, Outputs]:
        return self._reals(self.seed + 1)

    @cached_property
    def _reals_after(self) -> tuple[Operands, Outputs]:
        return self._reals(self.seed + 2)

    def _reals(self, seed: int) -> tuple[Operands, Outputs]:
        operands = reals(self.case, seed)
        return operands, reference(self.case, operands)

    @cached_property
    def _nan(self) -> tuple[Operands, Outputs]:
        """Integer operands with one NaN in the middle of the first, and where it must show."""
        assert self._integers
        operands = dict(self._integers[0])
        name = self.case.operand_names[0]
        poisoned = operands[name].clone()
        poisoned[tuple(size // 2 for size in poisoned.shape)] = float("nan")
        operands[name] = poisoned
        dtype = "float64" if self.case.dtype == "float64" else "float32"
        return operands, tuple(out.isnan() for out in reference(self.case, operands, dtype))

    def _prepared(self, operands: Operands, kernel: Kernel) -> tuple[Any, ...]:
        values = tuple(operands.values())
        return kernel.prepare(*values) if kernel.prepare else values

    def _plain(self, implementation: Implementation, kernel: Kernel, operands: Operands, expected: Outputs) -> Trial:
        arguments = self._prepared(in_layout(operands, implementation.layout), kernel)
        return Trial(self.case, kernel, implementation.family, _as_tuple(kernel.run(*arguments)), expected, exact=False)

    def _watched(self, implementation: Implementation, kernel: Kernel) -> Trial:
        assert self._integers
        operands, expected = self._integers
        inputs = [guarded(t) for t in in_layout(operands, implementation.layout).values()]
        arguments = self._prepared(dict(zip(operands, (g.tensor for g in inputs), strict=True)), kernel)
        with watching() as seen:
            outputs = _as_tuple(kernel.run(*arguments))
        return Trial(self.case, kernel, implementation.family, outputs, expected, True, inputs, *seen)

    def _with_nan(self, implementation: Implementation, kernel: Kernel) -> Trial:
        assert self._integers
        operands, masks = self._nan
        arguments = self._prepared(in_layout(operands, implementation.layout), kernel)
        outputs = _as_tuple(kernel.run(*arguments))
        expected = self._integers[1]
        return Trial(self.case, kernel, implementation.family, outputs, expected, True, must_be_nan=masks)


def _as_tuple(outputs: Any) -> Outputs:
    return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)


def failure(error: Exception) -> tuple[Literal["error", "out_of_memory"], str]:
    """Status and one line for an exception out of a kernel."""
    name = type(error).__name__
    out_of_memory = isinstance(error, MemoryError) or name == "OutOfMemoryError"
    return "out_of_memory" if out_of_memory else "error", f"{name}: {' '.join(str(error).split())[:300]}"


@contextmanager
def watching() -> Iterator[tuple[list[Guarded], list[str]]]:
    """Fill what torch allocates with NaN between guard bands, and note calls of torch's convolutions."""
    from torch.utils._python_dispatch import TorchDispatchMode

    allocated: list[Guarded] = []
    calls: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            name = func.__name__.split(".")[0]
            if "conv" in name:
                calls.append(f"torch's {name}")
            if name in _ALLOCATIONS and result.is_floating_point() and result.numel():
                result.fill_(float("nan"))
                allocated.append(guarded(result, read_only=False))
                return allocated[-1].tensor
            return result

    with Watch():
        yield allocated, calls


_ALLOCATIONS = frozenset(("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"))
