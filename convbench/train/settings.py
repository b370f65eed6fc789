"""What is trained and how: plain data, kept in every checkpoint and result."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Task = Literal["classify", "segment"]
Loss = Literal["cross-entropy", "dice", "both"]
Optimizer = Literal["sgd", "rmsprop", "adam", "adamw"]
Schedule = Literal["constant", "cosine", "onecycle"]
Form = Literal["dense", "separable", "as_is"]
Augmentation = Literal["flip", "shift", "crop", "rotate", "noise"]
Count = Annotated[int, Meta(ge=1, lt=2**31)]


class Variant(Struct, frozen=True):
    """One of the things compared: a model, its form, and what computes its convolutions."""

    model: str
    form: Form
    implementation: str

    @property
    def name(self) -> str:
        """Short and unique within a session."""
        model = self.model if self.form == "as_is" else f"{self.model} {self.form}"
        return f"{model}, {self.implementation}"


class Settings(Struct, frozen=True, kw_only=True):
    """All that decides the numbers; two sessions with equal settings train the same weights.

    batch      images a step, over all processes together
    target     metric (accuracy, or mean IoU) whose first reaching is timed
    arguments  given to every model's factory that has one of that name
    """

    task: Task
    data: str
    variants: tuple[Variant, ...]
    epochs: Count
    batch: Count
    loss: Loss
    optimizer: Optimizer
    learning_rate: Annotated[float, Meta(gt=0, lt=1e9)]
    momentum: Annotated[float, Meta(ge=0, lt=1)]
    weight_decay: Annotated[float, Meta(ge=0, lt=1e9)]
    schedule: Schedule
    augment: tuple[Augmentation, ...]
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    threads: Count
    device: str
    target: float
    arguments: dict[str, Any] = {}
    strict: bool = False

    @property
    def metric(self) -> str:
        """What a model is judged by."""
        return "accuracy" if self.task == "classify" else "mean IoU"
