"""ConvSpec: one convolution, as plain immutable data.

Names follow the field: N, C, H, W input; K output channels; R, S kernel; P, Q output.
x is (N, C, H, W), y is (N, K, P, Q), a convolution's weight is OIHW: (K, C/groups, R, S).
A transposed convolution's weight is (C, K/groups, R, S), as in torch.

Operators:

- ``conv2d``            cross-correlation, h = p*stride_h - padding_h + r*dilation_h
- ``conv_transpose2d``  its transpose: restores the shape, not the values
- ``separable_conv2d``  the pair depthwise R x S (C channels) then pointwise 1 x 1 (C -> K); stride,
  padding and dilation belong to the depthwise half
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, get_args

from convbench.errors import InputError

Operator = Literal["conv2d", "conv_transpose2d", "separable_conv2d"]
Pass = Literal["forward", "data_gradient", "weight_gradient"]
Kind = Literal["standard", "pointwise", "depthwise", "grouped", "dilated", "transposed", "separable"]
Pair = tuple[int, int]

OPERATORS: tuple[Operator, ...] = get_args(Operator)
PASSES: tuple[Pass, ...] = get_args(Pass)
KINDS: tuple[Kind, ...] = get_args(Kind)
LARGEST_TENSOR_ELEMENTS = 2**40  # a typing mistake, not a layer


def pair(value: int | Sequence[int], name: str) -> Pair:
    """A scalar stands for a square value: 3 -> (3, 3)."""
    values = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(values) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise InputError(f"{name} = {value!r}: expected an integer or a pair of integers")
    return values  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class ConvSpec:
    """One convolution. Impossible values are refused at construction with the reason (InputError)."""

    operator: Operator
    n: int
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    output_padding: Pair = (0, 0)
    bias: bool = False

    @classmethod
    def create(
        cls,
        input: Sequence[int],
        out_channels: int,
        kernel: int | Sequence[int],
        operator: Operator = "conv2d",
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        output_padding: int | Sequence[int] = 0,
        bias: bool = False,
    ) -> ConvSpec:
        """Build from the words of a suite file; scalars are accepted for square values."""
        if len(tuple(input)) != 4:
            raise InputError(f"input = {list(input)}: expected four sizes [N, C, H, W]")
        n, c, h, w = input
        r, s = pair(kernel, "kernel")
        return cls(
            operator, n, c, h, w, out_channels, r, s,
            pair(stride, "stride"), pair(padding, "padding"), pair(dilation, "dilation"),
            groups, pair(output_padding, "output_padding"), bias,
        )  # fmt: skip

    def __post_init__(self) -> None:
        _check(self)

    # Shapes -------------------------------------------------------------------------------------

    @property
    def p(self) -> int:
        """Output height."""
        return self._output_size(0)

    @property
    def q(self) -> int:
        """Output width."""
        return self._output_size(1)

    def _output_size(self, axis: int) -> int:
        size, kernel = (self.h, self.w)[axis], (self.r, self.s)[axis]
        stride, padding, dilation = self.stride[axis], self.padding[axis], self.dilation[axis]
        reach = dilation * (kernel - 1) + 1
        if self.is_transposed:
            return (size - 1) * stride - 2 * padding + reach + self.output_padding[axis]
        return (size + 2 * padding - reach) // stride + 1

    @property
    def is_transposed(self) -> bool:
        return self.operator == "conv_transpose2d"

    @property
    def is_separable(self) -> bool:
        return self.operator == "separable_conv2d"

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return (self.n, self.c, self.h, self.w)

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return (self.n, self.k, self.p, self.q)

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        """Weight shape; for the separable pair that of its dense twin (see depthwise(), pointwise())."""
        if self.is_transposed:
            return (self.c, self.k // self.groups, self.r, self.s)
        return (self.k, self.c // self.groups, self.r, self.s)

    # Classification -----------------------------------------------------------------------------

    @property
    def kind(self) -> Kind:
        """The most specific name that fits: a dilated depthwise convolution is ``depthwise``."""
        if self.is_transposed:
            return "transposed"
        if self.is_separable:
            return "separable"
        if self.groups > 1:
            return "depthwise" if self.groups == self.c else "grouped"
        if (self.r, self.s) == (1, 1):
            return "pointwise"
        return "dilated" if self.dilation != (1, 1) else "standard"

    # Related convolutions -----------------------------------------------------------------------

    def mirrored(self) -> ConvSpec:
        """The conv2d whose transpose this conv_transpose2d is: its input is our output.

        Both share the weight tensor bit for bit: (C, K/groups, R, S) read as OIHW. Our forward is
        its data gradient, our data gradient its forward, our weight gradient its weight gradient
        with x and dy exchanged.
        """
        if not self.is_transposed:
            raise ValueError("mirrored() is for conv_transpose2d")
        return ConvSpec(
            "conv2d", self.n, self.k, self.p, self.q, self.c, self.r, self.s,
            self.stride, self.padding, self.dilation, self.groups,
        )  # fmt: skip

    def dense(self) -> ConvSpec:
        """The standard convolution that a separable pair replaces."""
        return replace(self, operator="conv2d", groups=1)

    def separable(self) -> ConvSpec:
        """The separable pair that would replace this dense convolution."""
        return replace(self, operator="separable_conv2d", groups=1)

    def depthwise(self) -> ConvSpec:
        """The depthwise half of a separable pair (no bias: it sits on the pointwise half)."""
        return replace(self, operator="conv2d", k=self.c, groups=self.c, bias=False)

    def pointwise(self) -> ConvSpec:
        """The pointwise half of a separable pair, on the depthwise half's output."""
        return ConvSpec("conv2d", self.n, self.c, self.p, self.q, self.k, 1, 1, bias=self.bias)

    def __str__(self) -> str:
        def joined(values: Pair) -> str:
            return str(values[0]) if values[0] == values[1] else f"{values[0]}x{values[1]}"

        parts = [
            self.operator, "x".join(map(str, self.x_shape)), f"k{self.k}", f"{self.r}x{self.s}",
            f"s{joined(self.stride)}", f"p{joined(self.padding)}", f"d{joined(self.dilation)}", f"g{self.groups}",
        ]  # fmt: skip
        if self.output_padding != (0, 0):
            parts.append(f"op{joined(self.output_padding)}")
        return " ".join(parts + ["bias"] * self.bias)


def _check(spec: ConvSpec) -> None:
    if spec.operator not in OPERATORS:
        raise InputError(f"operator = {spec.operator!r}: expected one of {', '.join(OPERATORS)}")
    at_least_one = {name: getattr(spec, name) for name in ("n", "c", "h", "w", "k", "r", "s", "groups")}
    at_least_one |= {f"{name}[{axis}]": getattr(spec, name)[axis] for name in ("stride", "dilation") for axis in (0, 1)}
    at_least_zero = {f"{n}[{axis}]": getattr(spec, n)[axis] for n in ("padding", "output_padding") for axis in (0, 1)}
    for least, values in ((1, at_least_one), (0, at_least_zero)):
        for name, value in values.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name} = {value!r}: expected an integer of at least {least}")
            if value > LARGEST_TENSOR_ELEMENTS:
                raise InputError(f"{name} = {value}: more than any tensor has elements; check the sizes")
    _check_groups(spec)
    _check_sizes(spec)


def _check_groups(spec: ConvSpec) -> None:
    if spec.is_separable and spec.groups != 1:
        raise InputError(f"groups = {spec.groups}: a separable pair has groups of its own; leave it at 1")
    if spec.c % spec.groups or spec.k % spec.groups:
        raise InputError(
            f"groups = {spec.groups}: must divide both the {spec.c} input and the {spec.k} output channels"
        )


def _check_sizes(spec: ConvSpec) -> None:
    for axis, size in ((0, "H"), (1, "W")):
        if spec.output_padding[axis] and not spec.is_transposed:
            raise InputError("output_padding: only conv_transpose2d takes it; leave it at 0")
        if spec.output_padding[axis] and spec.output_padding[axis] >= max(spec.stride[axis], spec.dilation[axis]):
            raise InputError(
                f"output_padding = {spec.output_padding[axis]}: must be smaller than the stride or the dilation"
            )
        if spec._output_size(axis) < 1:
            reach = spec.dilation[axis] * ((spec.r, spec.s)[axis] - 1) + 1
            raise InputError(
                f"{size} = {(spec.h, spec.w)[axis]} with padding {spec.padding[axis]} is too small for a kernel "
                f"that reaches {reach}: the output would be empty; enlarge the input or the padding"
            )
    for name, shape in (("input", spec.x_shape), ("weight", spec.w_shape), ("output", spec.y_shape)):
        elements = prod(shape)
        if elements > LARGEST_TENSOR_ELEMENTS:
            raise InputError(f"{name} {list(shape)} has {elements:,} elements: no machine holds it; check the sizes")
