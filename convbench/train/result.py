"""What a training session gives: histories as they grow, and the rows made of them. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum
from typing import Annotated, Any, Literal, get_type_hints

import numpy as np
from msgspec import Struct, field

from convbench.measure import Interval, series_interval
from convbench.registry import REFERENCE
from convbench.results import Duration, Environment, Positive, Whole, about
from convbench.train.settings import Settings, Variant

SCHEMA_VERSION = 1
WARM_UP = 3  # first steps, which compile kernels and fill caches: trained, not counted as times
PROFILED = 3  # the step that is looked into, and not counted as a time either
FIRST_LOSSES = 20  # steps over which losses are held against the reference's

Status = Literal["ok", "diverged", "out_of_memory", "error"]
PHASES = ("data", "forward", "backward", "optimizer")


class Evaluation(Struct):
    """One look at the test images: after so many steps; rows of the matrix are true classes, columns predicted."""

    step: Whole
    metric: float
    confusion: list[list[Whole]]


class Computed(Struct, frozen=True):
    """A pass of a layer shape, what computed it in words, whether torch did because the implementation cannot."""

    layer: str
    pass_: str = field(name="pass")
    by: str
    fallback: bool
    count: Whole


class History(Struct):
    """One variant as it went: a value a step, an evaluation an epoch, and what computed its convolutions."""

    variant: Variant
    params: Positive
    macs: Whole | None
    status: Status = "ok"
    detail: str = ""
    losses: list[float] = []
    data_s: list[Duration] = []
    forward_s: list[Duration] = []
    backward_s: list[Duration] = []
    optimizer_s: list[Duration] = []
    inference_s: list[Duration] = []
    evaluations: list[Evaluation] = []
    convolution_s: Duration | None = None
    held_bytes: Whole | None = None
    alone_s: float | None = None
    ran: list[Computed] = []

    def phase_s(self, phase: str) -> np.ndarray:
        """Seconds a step of one phase, the steps that count."""
        values = np.array(getattr(self, f"{phase}_s"))
        counted = np.arange(len(values)) >= WARM_UP
        counted[PROFILED : PROFILED + 1] = False
        return values[counted] if counted.any() else values

    def steps_s(self) -> np.ndarray:
        """Seconds of each whole step that counts."""
        return np.sum([self.phase_s(phase) for phase in PHASES], axis=0)


class TrainRow(Struct, kw_only=True):
    """One variant; the columns of train.csv. Empty is what could not be known."""

    variant: Annotated[str, about("model, form and implementation")]
    model: Annotated[str, about("built-in name, or the specification of the user's own")]
    form: Annotated[str, about("dense, separable, or as_is for a model without the switch")]
    implementation: Annotated[str, about("what computes its convolutions")]
    status: Annotated[Status, about("ok, or why training stopped")]
    status_detail: Annotated[str, about("the reason in words")]
    params: Annotated[int, about("parameters of the model")]
    macs: Annotated[int | None, about("nominal multiply-accumulates of convolutions and matrix products, an image")]
    steps: Annotated[int, about("training steps done")]
    loss: Annotated[float | None, about("mean training loss of the last tenth of the steps")]
    metric: Annotated[float | None, about("accuracy (classify) or mean IoU (segment) on the test images, at the end")]
    accuracy: Annotated[float | None, about("share of test images, or pixels, that is right")]
    mean_dice: Annotated[float | None, about("Dice's coefficient, mean over classes")]
    step_s: Annotated[float | None, about("median time of a training step", "s")]
    step_ci_low_s: Annotated[float | None, about("lower end of its 95% interval", "s")]
    step_ci_high_s: Annotated[float | None, about("upper end", "s")]
    data_s: Annotated[
        float | None, about("median of taking and augmenting a batch, the same batch for all variants", "s")
    ]
    forward_s: Annotated[float | None, about("median of forward and loss", "s")]
    backward_s: Annotated[float | None, about("median of backward", "s")]
    optimizer_s: Annotated[float | None, about("median of the optimizer's step", "s")]
    images_per_s: Annotated[float | None, about("training: batch / median step", "1/s")]
    inference_images_per_s: Annotated[float | None, about("evaluation: batch / median forward pass", "1/s")]
    step_speedup: Annotated[float | None, about("torch's step / this step, median of pairs; same model and form")]
    step_speedup_low: Annotated[float | None, about("lower end of its 95% interval")]
    step_speedup_high: Annotated[float | None, about("upper end")]
    inference_speedup: Annotated[float | None, about("torch's forward pass / this one, median of pairs")]
    inference_speedup_low: Annotated[float | None, about("lower end of its 95% interval")]
    inference_speedup_high: Annotated[float | None, about("upper end")]
    loss_difference: Annotated[float | None, about("largest relative difference to torch's loss in the first 20 steps")]
    convolution_share: Annotated[
        float | None, about("share of forward and backward spent in convolutions, from one step looked into")
    ]
    fallbacks: Annotated[int, about("passes of layers that torch computed because the implementation cannot")]
    held_bytes: Annotated[
        int | None, about("weights, gradients, optimizer state, and activations kept for backward", "B")
    ]
    target_s: Annotated[
        float | None, about("training time until the target metric was first seen, warm-up at the mean", "s")
    ]
    scaling_efficiency: Annotated[
        float | None, about("one process's step / (processes x this step), same global batch")
    ]


class Saving(Struct, kw_only=True):
    """Dense against separable: one model on one implementation. Ratios are dense / separable."""

    model: str
    implementation: str
    params: float
    macs: float | None
    step: float | None
    step_low: float | None
    step_high: float | None
    inference: float | None
    dense_metric: float | None
    separable_metric: float | None


class Result(Struct, kw_only=True):
    """train.json."""

    schema_version: int = SCHEMA_VERSION
    command: str = "train"
    started: str
    machine: str
    settings: Settings
    classes: tuple[str, ...]
    image: tuple[int, int, int]
    split: str
    processes: int
    environment: Environment
    peak_rss_bytes: int | None
    warnings: list[str]
    complete: bool
    rows: list[TrainRow]
    savings: list[Saving]
    histories: list[History]
    examples: list[dict[str, Any]] = field(default_factory=list)


COLUMNS = tuple(TrainRow.__struct_fields__)
DOCS = {name: hint.__metadata__[0].description for name, hint in get_type_hints(TrainRow, include_extras=True).items()}


# From histories to rows -----------------------------------------------------------------------------------


def row_of(history: History, all_: Sequence[History], settings: Settings, processes: int) -> TrainRow:
    """The row of one variant, held against torch's on the same model and form where that was trained too."""
    from convbench.train import metrics

    v, last = history.variant, history.evaluations[-1] if history.evaluations else None
    import torch

    matrix = torch.tensor(last.confusion) if last else None
    phases = {f"{p}_s": _median(history.phase_s(p)) for p in PHASES}
    step, low, high = ends(_interval(history.steps_s()))
    inference = _median(np.array(history.inference_s))
    inside = (phases["forward_s"] or 0.0) + (phases["backward_s"] or 0.0)
    share = history.convolution_s / inside if history.convolution_s and inside else None
    torch_ = reference_of(history, all_)
    faster = {} if torch_ is None else _speedups(torch_, history)
    tail = history.losses[-max(1, len(history.losses) // 10) :]
    return TrainRow(
        variant=v.name, model=v.model, form=v.form, implementation=v.implementation, status=history.status,
        status_detail=history.detail, params=history.params, macs=history.macs, steps=len(history.losses),
        loss=fsum(tail) / len(tail) if tail else None, metric=last.metric if last else None,
        accuracy=metrics.accuracy(matrix) if matrix is not None else None,
        mean_dice=metrics.mean(metrics.dices(matrix)) if matrix is not None else None,
        step_s=step, step_ci_low_s=low, step_ci_high_s=high, **phases,
        images_per_s=settings.batch / step if step else None,
        inference_images_per_s=settings.batch / inference if inference else None,
        **{name: faster.get(name) for name in _SPEEDUPS},
        convolution_share=share, fallbacks=sum(c.fallback for c in history.ran), held_bytes=history.held_bytes,
        target_s=target_s(history, settings.target),
        scaling_efficiency=history.alone_s / (processes * step) if history.alone_s and step else None,
    )  # fmt: skip


_SPEEDUPS = (
    "step_speedup", "step_speedup_low", "step_speedup_high", "inference_speedup", "inference_speedup_low",
    "inference_speedup_high", "loss_difference",
)  # fmt: skip


def reference_of(history: History, all_: Sequence[History]) -> History | None:
    """torch's history of the same model and form; None for itself or where there is none."""
    v = history.variant
    wanted = Variant(v.model, v.form, REFERENCE)
    return next((h for h in all_ if h.variant == wanted and h is not history), None)


def _speedups(reference: History, other: History) -> dict[str, float | None]:
    step = paired(reference.steps_s(), other.steps_s())
    inference = paired(np.array(reference.inference_s), np.array(other.inference_s))
    pairs = list(zip(reference.losses[:FIRST_LOSSES], other.losses[:FIRST_LOSSES], strict=False))
    gap = max((abs(a - b) / max(abs(a), 1e-12) for a, b in pairs), default=None)
    return dict(zip(_SPEEDUPS, (*ends(step), *ends(inference), gap), strict=True))


def paired(reference: np.ndarray, other: np.ndarray) -> Interval | None:
    """reference / other, step by step: both trained on the same batch, one right after the other."""
    n = min(len(reference), len(other))
    return series_interval(list(reference[:n] / other[:n])) if n else None


def target_s(history: History, target: float) -> float | None:
    """Training seconds until an evaluation first reached the target; steps that do not count are taken as typical."""
    steps = next((e.step for e in history.evaluations if e.metric >= target), None)
    typical = history.steps_s()
    return float(np.mean(typical)) * steps if steps is not None and len(typical) else None


def savings(histories: Sequence[History]) -> list[Saving]:
    """Every model that was trained dense and separable on one implementation."""
    by = {(h.variant.model, h.variant.implementation, h.variant.form): h for h in histories}
    pairs = [(dense, by.get((model, i, "separable"))) for (model, i, form), dense in by.items() if form == "dense"]
    return [_saving(dense, separable) for dense, separable in pairs if separable]


def _saving(dense: History, separable: History) -> Saving:
    step, low, high = ends(paired(dense.steps_s(), separable.steps_s()))
    inference, *_ = ends(paired(np.array(dense.inference_s), np.array(separable.inference_s)))
    last = [h.evaluations[-1].metric if h.evaluations else None for h in (dense, separable)]
    return Saving(
        model=dense.variant.model, implementation=dense.variant.implementation,
        params=dense.params / separable.params,
        macs=dense.macs / separable.macs if dense.macs and separable.macs else None,
        step=step, step_low=low, step_high=high, inference=inference, dense_metric=last[0], separable_metric=last[1],
    )  # fmt: skip


def ends(interval: Interval | None) -> tuple[float | None, float | None, float | None]:
    """(value, low, high) of an interval that may not be there."""
    return (interval.value, interval.low, interval.high) if interval else (None, None, None)


def _interval(values: np.ndarray) -> Interval | None:
    return series_interval(list(values)) if len(values) else None


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None
