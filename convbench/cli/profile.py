"""`convbench profile`: a model's convolutions in the model and alone, what bounds them, and what to do."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convbench.cli import common
from convbench.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_SOME_CELLS_FAILED, OutputError
from convbench.plan import Selection

if TYPE_CHECKING:
    from convbench.profile.model import LayerRow, Profile
    from convbench.profile.session import Outcome

STEP_TIMES = 10  # --max-time that the step, and each change to it, may take
MOST_LINES = 30  # of the table in a terminal
_PASSES = {"forward": "F", "data_gradient": "D", "weight_gradient": "W"}


@click.command(
    epilog=common.examples(
        "convbench profile resnet",
        "convbench profile my_net.py:make --input 1,3,224,224 --out results",
        "convbench profile my_package.nets:Net --input 8,3,64,64 --pass forward --json",
    )
)
@click.argument("model", metavar="SPEC")
@common.input_option
@click.option("--pass", "passes", type=click.Choice(("forward", "all")), default="all", show_default=True,
              help="forward: an inference step; all: forward and backward.")  # fmt: skip
@click.option("--device", default="", metavar="DEVICE", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one).")
@click.option("--dtype", type=common.DTYPES, help="Convert the model (default: as it is).")
@click.option("--autocast", type=click.Choice(("bfloat16", "float16")),
              help="Run the step in torch.autocast of this type, as a model may need.")  # fmt: skip
@click.option(
    "--impl", multiple=True, metavar="NAME", help="Only these implementations or families, alone and swapped."
)
@click.option("--threads", type=int, metavar="N", help="Threads for torch and every kernel (default: all CPUs).")
@click.option(
    "--max-time", type=float, metavar="SECONDS",
    help="Longest sampling of one implementation of one layer alone (default: 0.15, or less where there are many); the "
    "step, and each change to it, gets ten times that.",
)  # fmt: skip
@click.option("--seed", type=common.Seed(), default=0, show_default=True, help="Seed of the input and of the order.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
              help="Write profile.html, .json, .csv, .md, trace.json and torch.profiler's trace there.")  # fmt: skip
@click.option("--tensorboard", type=click.Path(path_type=Path), metavar="LOGDIR",
              help="Write scalars there, a run for each profile (needs convbench[tensorboard]).")  # fmt: skip
@common.json_option
def command(
    model: str, inputs: tuple[tuple[int, ...], ...], passes: str, device: str, dtype: str | None, autocast: str | None,
    impl: tuple[str, ...], threads: int | None, max_time: float | None, seed: int, out: Path | None,
    tensorboard: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Profile a model layer by layer, with advice.

    SPEC is a built-in model, FILE.py:FACTORY or PACKAGE.MODULE:FACTORY; its code is run. INPUT beside the factory is a
    shape, or a function that returns the inputs. Each convolution that executes is timed inside the model, forward and
    backward, and alone on every implementation, verified first; then the kernels, the layout, the type and the threads
    that look better are tried on the whole model. An interrupt keeps what is finished (exit code 130).
    """
    from convbench.journal import make_folder

    if tensorboard:
        from convbench.profile.tensorboard import check

        check()
    for folder in filter(None, (out, tensorboard)):
        make_folder(folder)
    outcome = _profile(model, inputs, passes, device, dtype, autocast, impl, threads, max_time, seed)
    found = outcome.found
    try:
        paths = _write(outcome, out, tensorboard)
    except OutputError:  # what is measured is shown at least
        _print(found)
        raise
    if as_json:
        import msgspec

        rest = {k: v for k, v in msgspec.to_builtins(found).items() if k != "rows"}
        common.emit_json("profile", found.rows, **rest, paths=paths)
    else:
        _print(found)
        for name, path in paths.items():
            common.out().print(f"{name:16} {path}", soft_wrap=True)
    if outcome.error:
        raise outcome.error
    if found.missing:
        common.err().print(f"interrupted: not measured: {', '.join(found.missing)}")
        return EXIT_INTERRUPTED
    from convbench.results import FAILED_STATUSES

    return EXIT_SOME_CELLS_FAILED if any(r.status in FAILED_STATUSES for r in found.isolated) else EXIT_OK


def _profile(
    model: str, inputs: tuple[tuple[int, ...], ...], passes: str, device: str, dtype: str | None, autocast: str | None,
    impl: tuple[str, ...], threads: int | None, max_time: float | None, seed: int,
) -> Outcome:  # fmt: skip
    from convbench import plan as planning
    from convbench.process import keep_freed_memory, prepare, usual_threads

    usual = usual_threads()
    threads = prepare(threads)
    keep_freed_memory()
    import torch

    from convbench.cli.progress import live
    from convbench.isolate import Isolated
    from convbench.profile.options import Options
    from convbench.profile.session import profile
    from convbench.registry import registry
    from convbench.suites.traced import ModelSource, subject

    torch.manual_seed(seed)
    (where,) = planning.select_devices([device] if device else [])
    selection = Selection(implementations=impl)
    implementations, worker = planning.select_implementations(registry(), selection), Isolated()
    isolated = common.isolated(None, implementations)
    options = Options(
        passes=selection.expanded_passes(passes), threads=threads, usual_threads=usual, seed=seed,
        implementations=worker.shield(implementations, isolated), isolated=isolated, worker=worker,
        **({} if max_time is None else {"cell_s": max_time, "alone_s": inf, "step_s": STEP_TIMES * max_time}),
    )  # fmt: skip
    common.err().print("Looking at this machine and the model ...", style="dim")
    ready = subject(ModelSource(model, inputs), where, getattr(torch, dtype) if dtype else None)
    if autocast:
        kind, type_ = torch.device(where).type, getattr(torch, autocast)
        ready = replace(ready, around=lambda: torch.autocast(kind, type_))
    with common.interrupts(), closing(worker):
        return profile(
            ready, where, options, live, lambda line: common.err().print(common.printable(line), style="dim")
        )


def _write(outcome: Outcome, folder: Path | None, tensorboard: Path | None) -> dict[str, str]:
    from convbench.journal import write_atomically
    from convbench.profile.export import contents

    paths = {}
    if folder:
        for name, content in contents(outcome, lambda line: common.err().print(common.printable(line))).items():
            write_atomically(folder / name, content)
            paths[name] = str(folder / name)
    if tensorboard:
        from convbench.profile.tensorboard import write

        paths["tensorboard"] = str(write(outcome.found, tensorboard))
    return paths


# Text ---------------------------------------------------------------------------------------------

_COLUMNS = (
    ("layer", "left"), ("pass", "left"), ("kind", "left"), ("shape", "left"), "field", ("layout", "left"), "calls",
    "MMAC", "FLOP/B", "time", "+-", "of step", "GFLOP/s", "GB/s", "of roof", ("bound", "left"), "alone",
    ("fastest alone", "left"), "gain",
)  # fmt: skip
_SPARE = ("field", "GB/s", "layout", "FLOP/B", "MMAC", "kind", "+-", "calls", "GFLOP/s", "shape", "alone")


def _print(found: Profile) -> None:
    step = found.step
    ordered = sorted(found.rows, key=lambda row: -row.step_s)
    hidden = len(ordered) - MOST_LINES
    more = f"; {hidden} more with --out or --json" if hidden > 0 else ""
    common.table(
        f"{found.machine}: {step.model}, {step.passes}, {step.device}, {step.threads} threads",
        _COLUMNS,
        [_line(row) for row in ordered[:MOST_LINES]],
        "time: one call inside the model; alone: the same call warm and by itself; pass: forward, data gradient, "
        f"weight gradient; gain: alone over fastest alone, ~ a tie{more}",
        _SPARE,
    )
    for line in (*_step_lines(found), *(f"disturbed: {line}" for line in found.warnings)):
        common.out().print(common.printable(line))
    common.out().print("Advice", style="bold")
    if found.variants and not any(advice.gain for advice in found.advice):
        common.out().print("None of the changes that were tried makes the whole step faster.")
    for advice in found.advice:
        common.out().print(common.printable(f"- {advice.text}"), soft_wrap=True)
        for line in advice.code.splitlines():
            common.out().print(common.printable(f"      {line}"), soft_wrap=True, style="dim")


def _step_lines(found: Profile) -> list[str]:
    step, seconds = found.step, common.seconds
    width = f" ({seconds(step.ci_low_s)} - {seconds(step.ci_high_s)})" if step.ci_low_s else ""
    lines = [
        f"step: {seconds(step.median_s)}{width}, {step.samples} samples"
        + (f"; {seconds(step.eager_s)} without torch.compile, in which layers are timed" if step.compiled else ""),
        f"convolutions: {seconds(step.convolutions_s)}, {step.convolutions_share:.1%} of the step that nobody watches; "
        f"watching makes the step {step.distortion - 1:+.1%} longer",
    ]
    if step.profiler_convolutions_s:
        lines.append(
            f"torch.profiler: {seconds(step.profiler_convolutions_s)} of convolutions in the step that nobody watches"
        )
    if step.profiler_reason:
        lines.append(f"torch.profiler failed: {step.profiler_reason}")
    if step.operators:
        lines.append("beside them: " + ", ".join(f"{o.operator} {o.share:.1%}" for o in step.operators[:5]))
    if dtypes := {row.dtype for row in found.rows if row.attainable_gflops is None}:
        lines.append(f"no roof: no peak is measured here in {', '.join(sorted(dtypes))}")
    if step.forward_only_because:
        lines.append(f"forward only: the backward pass failed: {step.forward_only_because}")
    return lines


def _line(row: LayerRow) -> list[str]:
    from convbench.cli.summary import shape

    half = (row.ci_high_s - row.ci_low_s) / 2 / row.median_s if row.ci_high_s and row.ci_low_s else None
    tie = (
        row.best_speedup_ci_low
        and row.best_speedup_ci_high
        and row.best_speedup_ci_low <= 1 <= row.best_speedup_ci_high
    )
    gain = "" if row.best_speedup is None else f"{'~' if tie else ''}{row.best_speedup:.2f}x"
    return [
        row.case, _PASSES[row.pass_], row.kind, shape(row), common.number(row.receptive_field_h), row.layout,
        str(row.calls),
        common.number(row.macs / 1e6), common.number(row.intensity), common.seconds(row.median_s),
        "" if half is None else f"{half:.1%}", f"{row.share:.1%}", common.number(row.gflops),
        common.number(row.gbytes_per_s), "" if row.roofline_fraction is None else f"{row.roofline_fraction:.0%}",
        row.bound or "", common.seconds(row.isolated_s), row.best_implementation or "", gain,
    ]  # fmt: skip
