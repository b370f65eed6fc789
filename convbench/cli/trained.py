"""What `convbench train` prints at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convbench.cli import common

if TYPE_CHECKING:
    from convbench.train.result import Result, Saving, TrainRow

_COLUMNS = (("variant", "left"), "parameters", "MACs", "metric", "loss", "step", "+-", "data", "forward", "backward",
            "optimizer", "images/s", "inference", "speed-up", "interval", "inference speed-up", "convolutions",
            "to target", "held")  # fmt: skip
_SPARE = ("held", "optimizer", "data", "MACs", "loss", "interval", "+-", "inference", "to target", "parameters",
          "forward", "backward")  # fmt: skip


def show(result: Result, paths: dict[str, str]) -> None:
    """The table, what went wrong, what separable convolutions saved, and where the files are."""
    settings = result.settings
    metric = settings.metric
    columns: tuple = tuple((metric if c == "metric" else c) for c in _COLUMNS)
    common.table(
        f"{result.machine}: {settings.task} {settings.data}, {settings.epochs} epochs, batch {settings.batch}"
        + (f", {result.processes} processes" if result.processes > 1 else ""),
        columns,
        [_line(row) for row in result.rows],
        "speed-up: torch's time / this time on the same model, batch by batch; above 1 is faster",
        _SPARE,
    )
    for row in result.rows:
        if row.status != "ok":
            common.err().print(common.printable(f"{row.status}: {row.variant}: {row.status_detail}"))
        if row.fallbacks:
            common.err().print(
                common.printable(
                    f"{row.variant}: torch computed {row.fallbacks} passes of layers that "
                    f"{row.implementation} cannot; train.html names them"
                )
            )
        if row.scaling_efficiency is not None:
            common.out().print(f"{row.variant}: scaling efficiency {row.scaling_efficiency:.0%} on {result.processes}")
    for s in result.savings:
        common.out().print(common.printable(_saving(s, metric)))
    for line in result.warnings:
        common.out().print(common.printable(line))
    for name, path in paths.items():
        common.out().print(f"{name:12} {path}", soft_wrap=True)


def _saving(s: Saving, metric: str) -> str:
    saved = {"parameters": s.params, "MACs": s.macs, "step time": s.step, "inference time": s.inference}
    times = [f"{value:.2f}x {what}" for what, value in saved.items() if value]
    points = (
        f"; {metric} {100 * (s.separable_metric - s.dense_metric):+.2f} points"
        if s.dense_metric is not None and s.separable_metric is not None else ""
    )  # fmt: skip
    return f"{s.model}, {s.implementation}: separable saves {', '.join(times)}{points}"


def _line(row: TrainRow) -> list[str]:
    def times(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}x"

    def span(low: float | None, high: float | None) -> str:
        return "" if low is None or high is None else f"{low:.2f}-{high:.2f}"

    half = (
        f"{(row.step_ci_high_s - row.step_ci_low_s) / 2 / row.step_s:.1%}"
        if row.step_s and row.step_ci_low_s and row.step_ci_high_s else ""
    )  # fmt: skip
    return [
        row.variant, common.number(row.params), common.number(row.macs), common.number(row.metric, 4),
        common.number(row.loss), common.seconds(row.step_s), half,
        *(common.seconds(value) for value in (row.data_s, row.forward_s, row.backward_s, row.optimizer_s)),
        common.number(row.images_per_s), f"{common.number(row.inference_images_per_s)}/s",
        times(row.step_speedup), span(row.step_speedup_low, row.step_speedup_high), times(row.inference_speedup),
        "" if row.convolution_share is None else f"{row.convolution_share:.0%}", common.seconds(row.target_s),
        "" if row.held_bytes is None else f"{row.held_bytes / 2**20:,.0f} MiB",
    ]  # fmt: skip
