"""Case: one convolution x pass x dtype x device, the unit that is verified and timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from convbench.spec import ConvSpec, Pass

# tf32: float32 tensors whose products may be rounded to TensorFloat-32 (11 significant bits), on CUDA devices.
DType = Literal["float32", "float64", "bfloat16", "float16", "tf32"]
ITEM_BYTES: dict[str, int] = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2, "tf32": 4}


@dataclass(frozen=True, slots=True)
class Case:
    """What is computed, nothing about how. ``suite``, ``name`` and ``count`` say where it comes from."""

    spec: ConvSpec
    pass_: Pass = "forward"
    dtype: DType = "float32"
    device: str = "cpu"
    suite: str = ""
    name: str = ""
    count: int = 1  # how often the network uses the layer

    @property
    def element(self) -> str:
        """torch's name for the type of the tensors."""
        return "float32" if self.dtype == "tf32" else self.dtype

    @property
    def operand_names(self) -> tuple[str, ...]:
        """The kernel's arguments, in order, for this operator and pass."""
        weights = ("w_depthwise", "w_pointwise") if self.spec.is_separable else ("w",)
        if self.pass_ == "forward":
            return ("x", *weights, "bias") if self.spec.bias else ("x", *weights)
        if self.pass_ == "data_gradient":
            return ("dy", *weights)
        return ("x", *weights, "dy") if self.spec.is_separable else ("x", "dy")

    def operand_shape(self, name: str) -> tuple[int, ...]:
        """Shape of one operand by its name, in the layouts of convbench.spec."""
        return {
            "x": self.spec.x_shape,
            "dy": self.spec.y_shape,
            "w": self.spec.w_shape,
            "w_depthwise": (self.spec.c, 1, self.spec.r, self.spec.s),
            "w_pointwise": (self.spec.k, self.spec.c, 1, 1),
            "bias": (self.spec.k,),
        }[name]

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of what the kernel returns; only a separable weight gradient returns two tensors."""
        if self.pass_ == "weight_gradient":
            names: tuple[str, ...] = ("w_depthwise", "w_pointwise") if self.spec.is_separable else ("w",)
        else:
            names = ("dy",) if self.pass_ == "forward" else ("x",)
        return tuple(self.operand_shape(name) for name in names)

    def __str__(self) -> str:
        label = f"{self.suite}/{self.name}" if self.suite else self.name
        return f"{label or self.spec} {self.pass_} {self.dtype} {self.device}"
