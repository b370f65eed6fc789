"""Do our kernels and torch train to the same end? Whole trainings of `convbench train`, over seeds.

    python -m benchmarks.agreement_study [--out reports/agreement] [--seeds 3] [--minutes 60]

Each training is a run of the command itself: a model dense and separable, on numba.auto and on torch.aten, all four in
lockstep, so that they see the same batches and their steps are timed in turn. The first seed also trains them on
torch.channels_last: how far torch is from itself when it sums in another order. All trainings are in study.jsonl, and
README.md is written after each: what was reached, whether implementations agree, what separable convolution saves. The
command goes on where it was stopped, with more seeds too: --minutes starts no training that would not end in time, an
interrupt ends the training that is running. Use a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain, product
from math import sqrt
from pathlib import Path
from statistics import mean, median, stdev
from time import monotonic
from typing import TypeVar

import msgspec
from msgspec import Struct

from benchmarks.gate_study import git, go_on, run, table
from convbench.cli.common import err, number, seconds
from convbench.errors import EXIT_OK
from convbench.journal import Log, write_atomically
from convbench.machine.environment import detect
from convbench.registry import CHANNELS_LAST, REFERENCE
from convbench.train.result import FIRST_LOSSES, Saving, TrainRow
from convbench.train.settings import Settings, Task

COMMANDS: dict[Task, tuple[str, ...]] = {"classify": ("--model", "classifier"), "segment": ()}
LIMITS_S: dict[Task, float] = {"classify": 180, "segment": 360}  # of a training that reaches its target
WITHIN_POINTS = 0.5  # that separable may lose
IMPLEMENTATIONS = ("numba.auto", REFERENCE)
ROUNDING = 10  # times what torch differs from itself by: steps make more of it, each in its own way


class Plan(Struct):
    """Where the study began."""

    machine: str


class Output(Struct):
    """What the command prints."""

    settings: Settings
    rows: list[TrainRow]
    savings: list[Saving]
    warnings: list[str]


class Training(Struct):
    """One run of the command."""

    revision: str
    task: Task
    seed: int
    seconds: float
    output: Output


def training(task: Task, seed: int) -> Training:
    """Run the command once. Ends the study where that fails."""
    with tempfile.TemporaryDirectory() as folder:
        names = IMPLEMENTATIONS if seed else (*IMPLEMENTATIONS, CHANNELS_LAST)
        words = ["train", task, *COMMANDS[task], *(f"--impl={name}" for name in names), f"--seed={seed}",
                 f"--out={folder}/training", "--json"]  # fmt: skip
        begun = monotonic()
        code, out, messages = run([sys.executable, "-m", "convbench.cli.main", *words])
    if code != EXIT_OK:
        last = "".join(messages.strip().splitlines()[-1:])
        raise SystemExit(f"convbench {' '.join(words)}: exit code {code}: {last}")
    revision = git("rev-parse", "--short=10", "HEAD")
    return Training(revision, task, seed, monotonic() - begun, msgspec.json.decode(out, type=Output))


# Report -----------------------------------------------------------------------------------------


def points(value: float) -> str:
    return f"{100 * value:+.2f}"


def with_interval(differences: Sequence[float]) -> tuple[str, bool | None]:
    """The mean in points with Student's 95% interval, and whether that holds 0; None where one is too few to tell."""
    if len(differences) < 2:
        return points(differences[0]), None
    from scipy.stats import t

    centre = mean(differences)
    half = t.ppf(0.975, len(differences) - 1) * stdev(differences) / sqrt(len(differences))
    return f"{points(centre)} ({points(centre - half)} to {points(centre + half)})", abs(centre) <= half


def yes(found: bool | None) -> str:
    return {True: "yes", False: "no", None: "one seed cannot tell"}[found]


T = TypeVar("T", TrainRow, Saving)


def over_seeds(tables: Iterable[Sequence[T]], *names: str) -> dict[tuple[str, ...], list[T]]:
    """Rows that agree in the columns named, in order of the seeds."""
    found = defaultdict(list)
    for row in chain(*tables):
        found[tuple(getattr(row, name) for name in names)].append(row)
    return found


def by_variant(outputs: Sequence[Output]) -> dict[tuple[str, ...], list[TrainRow]]:
    return over_seeds((output.rows for output in outputs), "model", "form", "implementation")


def target_lines(task: Task, outputs: Sequence[Output]) -> list[list[str]]:
    """One line a variant: the metric at the end, and the time of its own steps."""
    wanted, limit, lines = outputs[0].settings.target, LIMITS_S[task], []
    for rows in by_variant(outputs).values():
        metrics = [row.metric for row in rows]
        whole = [row.steps * row.step_s for row in rows]
        first = [row.target_s for row in rows if row.target_s is not None]
        reached = sum(metric >= wanted and s < limit for metric, s in zip(metrics, whole, strict=True))
        lines.append([
            task, rows[0].variant, f"{mean(metrics):.2%}", f"{min(metrics):.2%}", f"{wanted:.1%}",
            seconds(median(first)) if first else "never", seconds(median(whole)), seconds(limit),
            f"{reached} of {len(rows)}",
        ])  # fmt: skip
    return lines


def agreement_lines(task: Task, outputs: Sequence[Output]) -> list[list[str]]:
    """One line a variant that is not the reference: its metric less the reference's at each seed, losses, steps."""
    found, lines = by_variant(outputs), []
    for (model, form, implementation), rows in found.items():
        if implementation == REFERENCE:
            continue
        sides = [[row.metric for row in side] for side in (rows, found[model, form, REFERENCE][: len(rows)])]
        difference, noise = with_interval([one - other for one, other in zip(*sides, strict=True)])
        loss, itself = (max(r.loss_difference for r in side) for side in (rows, found[model, form, CHANNELS_LAST]))
        lines.append([
            task, rows[0].variant, *(f"{mean(metrics):.2%}" for metrics in sides), difference,
            yes(noise), f"{loss:.1e}", "" if implementation == CHANNELS_LAST else yes(loss < ROUNDING * itself),
            ratios([row.step_speedup for row in rows]),
        ])  # fmt: skip
    return lines


def saving_lines(task: Task, outputs: Sequence[Output]) -> list[list[str]]:
    """One line a model and implementation: dense / separable."""
    lines = []
    for savings in over_seeds((output.savings for output in outputs), "model", "implementation").values():
        lost = [s.separable_metric - s.dense_metric for s in savings]
        first = savings[0]
        lines.append([
            task, f"{first.model}, {first.implementation}", f"{first.params:.2f}x", f"{number(first.macs)}x",
            ratios([s.step for s in savings]), ratios([s.inference for s in savings]), with_interval(lost)[0],
            yes(mean(lost) >= -WITHIN_POINTS / 100),
        ])  # fmt: skip
    return lines


def ratios(values: Sequence[float]) -> str:
    """The median over seeds, and the range of several."""
    range_ = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
    return f"{median(values):.2f}x{range_}"


def report(header: Plan, trainings: Sequence[Training]) -> str:
    outputs = {task: [t.output for t in trainings if t.task == task] for task in COMMANDS}
    outputs = {task: found for task, found in outputs.items() if found}

    def lines(of):
        return [line for task, found in outputs.items() for line in of(task, found)]

    targets = table(
        ["task", "variant", "metric", "least", "target", "to target", "all epochs", "limit", "reached"],
        lines(target_lines),
    )
    agreement = table(
        ["task", "variant", "metric", REFERENCE, "difference", "noise", "losses", "rounding", "step"],
        lines(agreement_lines),
    )
    saved = table(
        ["task", "model", "parameters", "MACs", "step", "inference", "metric, points", "within"], lines(saving_lines)
    )
    ran = "\n".join(
        f"- `convbench train {' '.join((task, *COMMANDS[task]))}`: "
        f"seeds {len(found)}, {found[0].settings.epochs} epochs, batch {found[0].settings.batch}, "
        f"{found[0].settings.threads} threads"
        for task, found in outputs.items()
    )
    revisions = ", ".join(dict.fromkeys(t.revision for t in trainings))
    said = "\n".join(f"- {t.task}, seed {t.seed}: {text}" for t in trainings for text in t.output.warnings)
    return f"""# Whole trainings on convbench's kernels and on torch

`python -m benchmarks.agreement_study` on {header.machine}, revision {revisions}:

{ran}

All variants of a training go in lockstep: the same weights, batches and dropout, steps timed in turn. Metrics are of
the test images after the last epoch, accuracy to classify and mean IoU to segment, means over seeds; ratios are medians
over seeds, with the range. All trainings are in `study.jsonl`.

Targets. Times are those of the variant's own steps, medians over seeds: until an evaluation first reached the target,
and of all epochs. Reached is a seed that ends above the target and within the limit.

{targets}

Agreement with {REFERENCE} on the same model. The difference is in points, the mean over seeds, with the 95% interval of
pairs; it is noise where that holds 0. Losses are compared step by step over the first {FIRST_LOSSES} steps: the largest
relative difference of all seeds. It is rounding below {ROUNDING} times that of {CHANNELS_LAST} at the first seed,
which is torch in another order of sums. Steps: {REFERENCE}'s time / this, above 1 is faster.

{agreement}

What separable convolution saves: dense / separable, of parameters and MACs on paper, of steps and inference as
measured. The last column: at most {WITHIN_POINTS} points are lost.

{saved}

Of the machine, whose seconds move with what disturbs it; ratios are of steps in turn:

{said or "- nothing disturbed a training"}
"""


def study(log: Log[Plan, Training], seeds: int, minutes: float) -> bool:
    """Trainings that are left, while there is time; whether none is."""
    header, done = log.read()
    if header.machine != (here := detect(with_torch=False).machine):
        raise SystemExit(f"{log.path}: is of {header.machine}, and this is {here}: use another --out")
    begun = monotonic()
    for seed, task in product(range(seeds), COMMANDS):
        if any((t.seed, t.task) == (seed, task) for t in done):
            continue
        usual_s = [t.seconds for t in done if t.task == task] or [t.seconds for t in done] or [0.0]
        if monotonic() - begun + max(usual_s) > 60 * minutes:
            return False
        done.append(training(task, seed))
        log.append(done[-1])
        err().print(f"{task}, seed {seed}: {seconds(done[-1].seconds)}")
        write_atomically(log.path.with_name("README.md"), report(header, done).encode())
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("reports/agreement"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=600)
    options = parser.parse_args()
    log = Log(options.out / "study.jsonl", Plan, Training, "python -m benchmarks.agreement_study")
    if not log.path.exists():
        log.start(Plan(detect(with_torch=False).machine))
    go_on(log, partial(study, log, options.seeds, options.minutes))


if __name__ == "__main__":
    main()
