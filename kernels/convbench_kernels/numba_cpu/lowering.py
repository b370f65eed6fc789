"""Every case as one pass of a plain conv2d, so that kernels are written once.

A transposed convolution is the data gradient of the conv2d it mirrors (ConvSpec.mirrored), and its own
gradients are that conv2d's forward and weight gradient:

    conv_transpose2d        conv2d it mirrors        operands
    forward(x, w)           data_gradient(dy, w)     dy = x
    data_gradient(dy, w)    forward(x, w)            x = dy
    weight_gradient(x, dy)  weight_gradient(x, dy)   exchanged
"""

from __future__ import annotations

from dataclasses import dataclass

from convbench.plugin import Case, ConvSpec, Pass

_MIRRORED_PASS: dict[Pass, Pass] = {
    "forward": "data_gradient",
    "data_gradient": "forward",
    "weight_gradient": "weight_gradient",
}


@dataclass(frozen=True)
class Lowered:
    """A conv2d pass. ``exchanged``: the two operands of a weight gradient come in the other order."""

    spec: ConvSpec
    pass_: Pass
    exchanged: bool = False


def cannot_lower(case: Case) -> str:
    """The reason why a case mirrors no conv2d, or ""."""
    spec = case.spec
    if spec.is_transposed and spec.mirrored().y_shape != spec.x_shape:
        return "an output_padding of the stride or more mirrors no convolution"
    return ""


def lower(case: Case) -> Lowered:
    """The conv2d pass that computes this case. The bias is not part of it: add it to the result."""
    if case.spec.is_transposed:
        return Lowered(case.spec.mirrored(), _MIRRORED_PASS[case.pass_], case.pass_ == "weight_gradient")
    return Lowered(case.spec, case.pass_)
