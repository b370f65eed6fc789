"""A profile as plain data: one row a layer and pass, the step they are part of, what could be changed, and advice."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Struct, field

from convbench.results import (
    Duration,
    Environment,
    NotNegative,
    Padding,
    Peak,
    Positive,
    Rate,
    Ratio,
    RecordedRow,
    Size,
    Time,
    Whole,
    about,
)  # fmt: skip
from convbench.spec import Kind, Operator, Pass

CALL = "call"  # bound: the roof allows less time than a call costs
PACKING = "packing"  # bound: alone, packing the weights takes more than half the time
REPACK = "repack"  # what a copy into another memory format is called among the operators
MIXED_LAYOUT = "nchw, weights channels_last"


class LayerRow(Struct, kw_only=True):
    """One pass of one convolution of one module, in the model and alone. Columns named as in results.csv mean the same.

    ``median_s`` and what follows from it (gflops, gbytes_per_s, roofline_fraction) is the time inside the model.
    """

    case: Annotated[str, about("the module that calls it")]
    operator: Operator
    kind: Kind
    pass_: Pass = field(name="pass")
    dtype: str
    device: str
    layout: Annotated[str, about("memory format of its input in the model")]
    receptive_field_h: Annotated[int | None, about("input rows that an output reads within; empty where unknown")] = (
        None
    )
    receptive_field_w: Annotated[int | None, about("the same of columns")] = None
    coverage: Annotated[NotNegative | None, about("share of the pixels of its receptive field that are read")] = None
    n: Size
    c: Size
    h: Size
    w: Size
    k: Size
    r: Size
    s: Size
    stride_h: Size
    stride_w: Size
    padding_h: Padding
    padding_w: Padding
    dilation_h: Size
    dilation_w: Size
    groups: Size
    output_padding_h: Padding
    output_padding_w: Padding
    bias: bool
    calls: Annotated[Positive, about("how often a step calls it")]
    params: Positive
    macs: Positive
    valid_macs: Whole
    bytes: Positive
    intensity: Annotated[NotNegative, about("2 x valid_macs / bytes", "FLOP/byte")]
    median_s: Annotated[Time, about("median time of one call inside the model", "s")]
    ci_low_s: Time | None = None
    ci_high_s: Time | None = None
    step_s: Annotated[Time, about("median time of all its calls in a step", "s")]
    share: Annotated[NotNegative, about("step_s over the time of an eager step that nobody watches")]
    gflops: Rate
    gbytes_per_s: Rate
    attainable_gflops: Rate | None = None
    roofline_fraction: NotNegative | None = None
    bound: Annotated[
        str | None,
        about("compute, a memory level, call (the roof allows less than a call costs), or packing of the weights"),
    ] = None
    isolated_s: Annotated[Time | None, about("the same call alone and warm, in its layout, by torch", "s")] = None
    isolated_low_s: Time | None = None
    isolated_high_s: Time | None = None
    cold_s: Annotated[Time | None, about("the same alone, its weights out of the caches", "s")] = None
    cold_low_s: Time | None = None
    cold_high_s: Time | None = None
    best_implementation: Annotated[str | None, about("fastest verified implementation, alone")] = None
    best_algorithm: str | None = None
    best_layout: str | None = None
    best_s: Time | None = None
    best_speedup: Annotated[Ratio | None, about("isolated_s / best_s")] = None
    best_speedup_ci_low: Ratio | None = None
    best_speedup_ci_high: Ratio | None = None
    lower_dtype: Annotated[str | None, about("lower precision in which the layer is fastest, alone")] = None
    lower_implementation: Annotated[str | None, about("fastest verified implementation in it")] = None
    lower_s: Time | None = None
    lower_speedup: Annotated[Ratio | None, about("isolated_s / lower_s")] = None
    lower_speedup_ci_low: Ratio | None = None
    lower_speedup_ci_high: Ratio | None = None
    swap_implementation: Annotated[
        str | None,
        about("fastest alone in the layer's own layout, where it clearly beats torch: for use_kernels"),
    ] = None
    prepacked_speedup: Annotated[
        Ratio | None,
        about("isolated_s over the fastest time with weights packed ahead, which swapping cannot do"),
    ] = None


class OtherOperator(Struct, kw_only=True):
    """What else a step spends time on: an aten operator, or repacking between memory formats."""

    operator: str
    calls: Positive
    step_s: Duration
    share: NotNegative
    profiler_s: Annotated[
        Duration | None, about("the same by torch.profiler, nobody watching; empty where unknown", "s")
    ] = None


class Variant(Struct, kw_only=True):
    """The whole step under one change, against the step as it is; no speed-up where the change failed (``reason``)."""

    name: str
    speedup: Annotated[Ratio | None, about("time of the step as it is / time with the change, interleaved pairs")] = (
        None
    )
    ci_low: Ratio | None = None
    ci_high: Ratio | None = None
    error: Annotated[NotNegative | None, about("relative L2 difference of the model's output")] = None
    reason: str = ""
    detail: dict[str, Any] = {}


class Step(Struct, kw_only=True):
    """One step of the model. Distortion is the watched step's time over that of the same step unwatched, both eager."""

    model: str
    device: str
    passes: str
    forward_only_because: str = ""
    compiled: bool = False
    threads: Positive
    median_s: Time
    ci_low_s: Time | None = None
    ci_high_s: Time | None = None
    eager_s: Annotated[Time, about("without torch.compile; median_s where the model does not use it", "s")]
    samples: Positive
    watched_s: Time
    distortion: Ratio
    distortion_ci_low: Ratio | None = None
    distortion_ci_high: Ratio | None = None
    convolutions_s: Annotated[Duration, about("sum of all rows' step_s", "s")]
    convolutions_share: Annotated[NotNegative, about("convolutions_s / eager_s")]
    profiler_convolutions_s: Annotated[Duration | None, about("all convolutions by torch.profiler", "s")] = None
    profiler_reason: Annotated[str, about("why torch.profiler says nothing")] = ""
    call_s: Annotated[Duration | None, about("a convolution of one number: what a call costs here", "s")] = None
    operators: list[OtherOperator] = []


class Count(Struct, kw_only=True):
    """Multiply-accumulates of the step's convolutions by another tool, and whether it agrees."""

    tool: str
    what: str
    ours_macs: Whole | None = None
    theirs_macs: Whole | None = None
    verdict: str


class Separable(Struct, kw_only=True):
    """What a depthwise-separable pair in place of a dense layer would give: dense over pair."""

    case: str
    modules: Annotated[Positive, about("how many have this shape; share is theirs together")] = 1
    paper: Ratio
    roofline: Ratio | None = None
    measured: Ratio | None = None
    measured_low: Ratio | None = None
    measured_high: Ratio | None = None
    share: NotNegative


class Cliff(Struct, kw_only=True):
    """The same layer with channels, or height and width, rounded up: less time for more work. Forward, alone."""

    case: str
    c: Size
    h: Size
    w: Size
    k: Size
    more_c: Whole
    more_h: Whole
    more_w: Whole
    more_k: Whole
    speedup: Ratio
    ci_low: Ratio | None = None
    ci_high: Ratio | None = None


class Gridding(Struct, kw_only=True):
    """Successive dilated layers whose rates share a factor."""

    layers: Annotated[list[tuple[str, int]], about("name and dilation of each")]
    coverage: Annotated[NotNegative, about("share of the positions of their common window that they read")]


class Facts(Struct, kw_only=True, frozen=True):
    """What a look at the tensors of one forward pass showed, layer by layer."""

    weight_denormals: dict[str, int] = {}
    input_denormals: dict[str, int] = {}
    gridding: list[Gridding] = []


class Advice(Struct, kw_only=True):
    """One thing to do, or not to, and why. ``gain`` is a measured speed-up of the step, where there is one."""

    topic: str
    text: str
    code: str = ""
    layers: list[str] = []
    gain: NotNegative | None = None


class Profile(Struct, kw_only=True):
    """All that profile.json holds beside the rows."""

    run_id: str
    machine: str
    started: str
    convbench_version: str
    environment: Environment = field(default_factory=lambda: Environment(machine=""))
    settings: dict[str, Any] = {}
    step: Step
    missing: Annotated[list[str], about("what an interrupt left unmeasured")] = []
    totals: dict[str, Any] = {}
    counts: list[Count] = []
    advice: list[Advice] = []
    variants: list[Variant] = []
    separable: list[Separable] = []
    cliffs: list[Cliff] = []
    facts: Facts = Facts()
    peaks: list[Peak] = []
    warnings: list[str] = []
    isolated: list[RecordedRow] = []
    rows: list[LayerRow] = []
