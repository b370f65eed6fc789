"""The checks that decide whether a kernel is right: one small function each, in one table.

A check looks at a Trial, one call of the kernel and all that was seen of it, and answers "" or what is
wrong. tests/kernels/broken.py has a kernel that each of them must catch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from convbench.case import Case
from convbench.operands import Guarded, sum_lengths
from convbench.plugin import Kernel
from convbench.watch import Seen

if TYPE_CHECKING:
    import torch

# Rounding of a sum of n terms t_i: sum_k d_k s_k with |d_k| <= u and partial sums s_k. For terms of random sign,
# as ours are, E s_k^2 <= S^2 = sum t_i^2, and the roundings are mean independent (Higham and Mary, "Sharper
# Probabilistic Backward Error Analysis for Basic Linear Algebra Kernels with Random Data", SIAM J. Sci. Comput.
# 42, 2020), so the error's standard deviation is at most sqrt(n) u S, whatever the order of summation. Lambda
# is how many of them are allowed: a norm averages over the elements, the worst element is the largest of many.
LAMBDA_NORM = 4.0
LAMBDA_ELEMENT = 16.0
UNIT_ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53, "float16": 2.0**-11, "bfloat16": 2.0**-8, "tf32": 2.0**-24}
# What rounding both factors of a product changes it by, at most: TF32 has 11 significant bits, and a GPU may cut others
# off: 2 * 2^-10. A sum's terms then change by shares of mean m and deviation s, m^2 + s^2 <= that squared: the sum by
# m of itself and s of S, no more than that share of the larger. (Of bfloat16's 8 bits it is typically 0.6 * 2^-8.)
FACTORS_ROUNDED = {"tf32": 2.0**-9}

HALF_SPACING = {"float16": 2.0**-25}  # of subnormal numbers, which real data reaches in this type only

Outputs = tuple["torch.Tensor", ...]


class Expected:
    """What a case must give on some operands, in float64.

    compute_spread gives S of each element, the root of its summed squared products; it is called when needed.
    nan marks the elements that must be NaN; without it none may be.
    """

    def __init__(self, values: Outputs, compute_spread: Callable[[], Outputs], nan: Outputs = ()) -> None:
        self.values, self.compute_spread, self.nan = values, compute_spread, nan
        self._rounded: Outputs | None = None

    @cached_property
    def scale(self) -> Outputs:
        """The size of each element, or the size it has on average where it is small by chance."""
        import torch

        return tuple(map(torch.maximum, self.compute_spread(), (values.abs() for values in self.values)))

    @cached_property
    def sizes(self) -> tuple[float, ...]:
        """||expected|| of each output, or half its usual size where few elements make it smaller by chance."""
        import torch

        norm = torch.linalg.vector_norm
        return tuple(max(float(norm(v)), float(norm(s)) / 2) for v, s in zip(self.values, self.scale, strict=True))

    def rounded_to(self, dtype: torch.dtype) -> Outputs:
        """The values in a kernel's dtype; the same dtype for all kernels of a case, so made once."""
        if self._rounded is None:
            self._rounded = tuple(values.to(dtype) for values in self.values)
        return self._rounded


@dataclass
class Trial:
    """One call of a kernel and all that was seen of it."""

    case: Case
    kernel: Kernel
    family: str
    outputs: Outputs
    expected: Expected
    integers: bool  # operands are small integers: every sum is exact
    inputs: list[Guarded] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)
    earlier: list[Outputs] = field(default_factory=list)  # results of earlier calls, still in use
    meddled: bool = False  # with operands or results of those calls

    @property
    def exact(self) -> bool:
        """The result must be equal to the last bit."""
        return self.integers and self.kernel.exact

    @cached_property
    def differences(self) -> Outputs:
        """|out - expected| in float64."""
        return tuple(out.double().sub_(e).abs_() for out, e in zip(self.outputs, self.expected.values, strict=True))

    @cached_property
    def error(self) -> float:
        """Largest relative L2 error over the outputs."""
        return max(map(relative_error, self.differences, self.expected.sizes))

    @property
    def tolerance(self) -> float:
        return tolerance(self.case, self.kernel.error_factor)


def rounding(case: Case, error_factor: float = 1.0) -> float:
    """Bound of the standard deviation of the summation's error, in units of S; chained sums add up."""
    accumulate = UNIT_ROUNDOFF["float64" if case.dtype == "float64" else "float32"]
    return sum(n**0.5 for n in sum_lengths(case)) * accumulate * error_factor


def tolerance(case: Case, error_factor: float = 1.0) -> float:
    """Largest relative L2 error allowed: lambda sqrt(n) u for the sums, 2 u for rounding to the dtype, and TF32's."""
    return LAMBDA_NORM * rounding(case, error_factor) + 2 * UNIT_ROUNDOFF[case.dtype] + factors_rounded(case)


def factors_rounded(case: Case) -> float:
    """Share by which rounding the factors of products changes the result; chained sums add up."""
    return len(sum_lengths(case)) * FACTORS_ROUNDED.get(case.dtype, 0.0)


def relative_error(difference: torch.Tensor, size: float) -> float:
    """||difference|| / size; infinite when NaN. Where all must be 0, the norm itself."""
    import torch

    norm = float(torch.linalg.vector_norm(difference))
    value = norm / size if size else norm
    return value if value == value else float("inf")


# Answers come in the order in which they are most useful ----------------------------------------


def check_result_type(t: Trial) -> str:
    """Tensors of the right number, shape, dtype and device."""
    import torch

    shapes = t.case.output_shapes
    if len(t.outputs) != len(shapes):
        return f"returned {len(t.outputs)} tensors, expected {len(shapes)}"
    for out, shape in zip(t.outputs, shapes, strict=True):
        if type(out) is not torch.Tensor:  # a subclass may answer comparisons as it likes
            return f"returned a {type(out).__name__}, expected a torch.Tensor"
        if tuple(out.shape) != shape:
            return f"returned shape {list(out.shape)}, expected {list(shape)}"
        if out.dtype != getattr(torch, t.case.element):
            return f"returned {out.dtype}, expected {t.case.element}"
        if out.device != torch.device(t.case.device):
            return f"returned a tensor on {out.device}, expected {t.case.device}"
    return ""


def check_inputs_intact(t: Trial) -> str:
    """Nothing was written to the operands or around them."""
    found = ((name, operand.intact()) for name, operand in zip(t.case.operand_names, t.inputs, strict=False))
    return next((f"operand {name}: {what}" for name, what in found if what), "")


def check_output_bounds(t: Trial) -> str:
    """Nothing was written around what the kernel allocated."""
    return "wrote outside a tensor it allocated" if any(a.intact() for a in t.seen.allocated) else ""


def check_new_memory(t: Trial) -> str:
    """The result is new memory: not an operand's, not that of an earlier result."""
    mine = {out.untyped_storage().data_ptr() for out in t.outputs}
    if mine & {operand.buffer.untyped_storage().data_ptr() for operand in t.inputs}:
        return "returned memory of an operand, expected a new tensor"
    if mine & {out.untyped_storage().data_ptr() for outputs in t.earlier for out in outputs}:
        return "returned the memory of an earlier result, expected a new tensor"
    return "wrote to tensors of an earlier call" if t.meddled else ""


def check_no_fallback(t: Trial) -> str:
    """Only the torch family may call torch's convolution."""
    calls = t.seen.convolutions
    return f"fell back to {calls[0]}" if calls and t.family != "torch" else ""


def check_nan_propagates(t: Trial) -> str:
    """A NaN in an operand reaches every element that depends on it."""
    lost = sum(int((mask & ~out.isnan()).sum()) for mask, out in zip(t.expected.nan, t.outputs, strict=False))
    return f"a NaN in the input was lost: {lost} elements should be NaN and are not" if lost else ""


def check_written(t: Trial) -> str:
    """Every element is a number: new memory was full of NaN, and so is what lies around the operands."""
    import torch

    for out in () if t.expected.nan else t.outputs:
        if not bool(out.sum(dtype=torch.float64).isfinite()):  # one pass and no new memory: nearly all are right
            bad = int((~out.isfinite()).sum())
            return f"{bad} of {out.numel()} elements are NaN or infinite: not written, or read outside an operand"
    return ""


def check_exact(t: Trial) -> str:
    """Equal to the last bit on integers, for a kernel that adds and multiplies plainly; a NaN goes nowhere else."""
    import torch

    if not t.exact:
        return ""
    for number, (out, expected) in enumerate(zip(t.outputs, t.expected.rounded_to(t.outputs[0].dtype), strict=True)):
        if torch.equal(out, expected):
            continue
        wrong = out != expected
        if t.expected.nan:
            wrong &= ~t.expected.nan[number]
            if t.family == "torch":  # oneDNN pads blocks with zeros and multiplies NaN by them
                wrong &= ~out.isnan()
        if bool(wrong.any()):
            at = wrong.nonzero()[0].tolist()
            got, want = float(out[tuple(at)]), float(expected[tuple(at)])
            differ = f"{int(wrong.sum())} of {out.numel()} elements differ on integers"
            return f"{differ}, first at {at}: {got:g}, expected {want:g}"
    return ""


def check_error(t: Trial) -> str:
    """The result as a whole is near float64."""
    if t.exact or t.expected.nan or t.error <= t.tolerance:
        return ""
    return f"relative error {t.error:.2e}, allowed {t.tolerance:.2e}"


def check_largest_error(t: Trial) -> str:
    """No single element is far from float64, in units of the rounding of its own sum.

    The error of a fast algorithm (Winograd) belongs to its tile: an element whose own taps lie on padding gets some
    of its neighbours'. Its unit is the usual size at least.
    """
    import torch

    if t.exact or t.expected.nan:
        return ""
    allowed = LAMBDA_ELEMENT * rounding(t.case, t.kernel.error_factor) + 5 * UNIT_ROUNDOFF[t.case.dtype]
    allowed += LAMBDA_ELEMENT / LAMBDA_NORM * factors_rounded(t.case)
    for difference, expected, own in zip(t.differences, t.expected.values, t.expected.scale, strict=True):
        scale = own if t.kernel.exact else own.clamp_min(float(own.square().mean().sqrt()))
        excess = torch.sub(difference, scale, alpha=allowed)
        if float(excess.max()) > HALF_SPACING.get(t.case.dtype, 0.0):
            at = tuple(int(i) for i in torch.unravel_index(excess.argmax(), excess.shape))
            off, size = float(difference[at]), float(scale[at])
            times = f"{off / size:.2e} of its size" if size else f"{off:.2e}, and must be 0"
            return f"element {list(at)}, expected {float(expected[at]):.7g}, is off by {times}"
    return ""


CHECKS: tuple[Callable[[Trial], str], ...] = (
    check_result_type,
    check_inputs_intact,
    check_output_bounds,
    check_new_memory,
    check_no_fallback,
    check_nan_propagates,
    check_written,
    check_exact,
    check_error,
    check_largest_error,
)
