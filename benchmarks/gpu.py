"""The whole GPU study in one command and one record: verify, tune and time every Triton kernel against torch.

    python benchmarks/gpu.py --out reports/h100 [--minutes 6.8] [--batch 32] [--dtypes bfloat16 ...] [--device cuda:0]

In this order, each type by itself, until the minutes are over, so that what matters most is there: the layers of the
targets (gpu_targets.toml), all passes, one of each kind in turn; the same at batch 1 as CUDA graphs, on both sides;
bias and ReLU in one call (gpu_epilogue.py); then layers of published networks, energy of one call for the fastest of
both sides, and small shapes under compute-sanitizer where the machine has it.

torch gets cudnn.benchmark and both its layouts; float32 is float32 on both sides, tf32 is TF32 on both. Every call has
events of its own and the L2 cache flushed before it; the driver's clocks, power, temperature and reasons to hold the
clock down are read around each sample. What is finished is kept as it comes (journal.jsonl); run.json, results.csv and,
where the chart library is installed, report.html are written at the end, and a table says what was reached.

Without a GPU, TRITON_INTERPRET=1, --device cpu and --suites with a file of small layers show that the script works; the
times mean nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import gpu_epilogue
from gpu_table import EPILOGUE, line_of, show

from convbench import plan as planning
from convbench.case import Case
from convbench.cli.common import err, out
from convbench.cli.progress import live
from convbench.errors import EXIT_OK, EXIT_SOME_CELLS_FAILED, InputError
from convbench.journal import Header, Journal
from convbench.machine.cuda_timer import energy_j
from convbench.machine.gpu import Watch
from convbench.machine.noise import snapshot, warnings
from convbench.measure import Policy
from convbench.plugin import Implementation
from convbench.process import keep_freed_memory, precision, prepare
from convbench.records import spec_of
from convbench.registry import CHANNELS_LAST, REFERENCE, registry
from convbench.report.analysis import case_key
from convbench.results import FAILED_STATUSES, Record, RecordedRow
from convbench.run import Plan, begin, execute, write_outputs
from convbench.verify import Checker

TARGETS = str(Path(__file__).with_name("gpu_targets.toml"))
PUBLISHED = ("mobilenet_v1", "resnet50", "deeplabv3", "unet", "dcgan", "separable")
TORCH = (REFERENCE, CHANNELS_LAST)
AFTER_STAGES = 2  # of the first type, bias and ReLU are measured
ENERGY_MINUTES = 0.3
SANITIZER_S = 25.0


class Stage(NamedTuple):
    """Cases that are timed alike: as they are, or as CUDA graphs."""

    cases: list[Case]
    graphs: bool


def stages(options: argparse.Namespace, device: str) -> list[Stage]:
    """What is measured, in order, each convolution once."""
    targets, published = (options.suites, ()) if options.suites else ((TARGETS,), PUBLISHED)
    found = []
    for dtype in options.dtypes:
        found.append(Stage(select(targets, dtype, "all", options.batch, device), False))
        alone = [case for case in select(targets, dtype, "forward", 1, device) if case.spec.n == 1]
        found.append(Stage(alone, device != "cpu"))
    if published:
        layers = (select(published, dtype, "all", options.batch, device) for dtype in options.dtypes)
        found.append(Stage(in_turn(layers), False))
    seen: set[tuple] = set()
    return [Stage([c for c in cases if new((c.spec, c.pass_, c.dtype), seen)], graphs) for cases, graphs in found]


def new(key: tuple, seen: set[tuple]) -> bool:
    """Whether a key was not seen before; now it is."""
    before = len(seen)
    seen.add(key)
    return len(seen) > before


def select(suites: Iterable[str], dtype: str, passes: str, batch: int, device: str) -> list[Case]:
    """Layers pass by pass, one of each kind in turn; those of batch 1 get another."""
    selection = planning.Selection(suites=tuple(suites), passes=(passes,), dtypes=(dtype,))  # type: ignore[arg-type]
    by_pass: dict[str, dict[str, list[Case]]] = defaultdict(lambda: defaultdict(list))
    for case in planning.select_cases(selection, "default", "all", [device]):
        spec = replace(case.spec, n=batch) if case.spec.n == 1 else case.spec
        by_pass[case.pass_][case.spec.kind].append(replace(case, spec=spec))
    return list(chain.from_iterable(in_turn(kinds.values()) for kinds in by_pass.values()))


def in_turn(lists: Iterable[list[Case]]) -> list[Case]:
    return [case for round_ in zip_longest(*lists) for case in round_ if case]


def run(options: argparse.Namespace, device: str) -> Record:
    """Everything, until done or until the minutes are over."""
    end = monotonic() + 60 * options.minutes
    threads = prepare(None)
    keep_freed_memory()
    before, kernels = snapshot(), contenders()
    found = stages(options, device)
    plan = Plan([c for stage in found for c in stage.cases], kernels, Policy(0.01, options.max_time), threads)
    journal = Journal(options.out)
    journal.claim()
    record = begin(plan, {"study": "gpu", "threads": threads, "policy": plan.policy, "seed": plan.seed}, quick=True)
    journal.start(Header(record=record, cases=plan.cases, implementations=[i.name for i in kernels], policy=plan.policy,
                         threads=threads, seed=0))  # fmt: skip
    first, over = 0, lambda: monotonic() > end
    record.settings["bias_relu"] = []
    try:
        with live(plan) as progress:
            for number, stage in enumerate(found):
                if number == AFTER_STAGES:
                    record.settings["bias_relu"] = gpu_epilogue.studies(found[0].cases, plan.policy, over)
                mine = range(first, first + len(stage.cases))
                others = frozenset(range(len(plan.cases))).difference(mine)
                execute(replace(plan, graphs=stage.graphs), record, progress, journal, others, interrupted=over)
                first += len(stage.cases)
        record.complete = True
    except KeyboardInterrupt:
        err().print(f"{len(record.rows)} rows of {len(plan.cases)} cases are finished; the rest had no time")
    add_energy(record, kernels, device, ENERGY_MINUTES * 60)
    record.settings["compute_sanitizer"] = sanitized(device)
    record.warnings += warnings(before, snapshot())
    return record


def contenders() -> list[Implementation]:
    """Every Triton kernel, and torch's own in both layouts: cuDNN's, and ATen's depthwise kernel on plain tensors."""
    import torch

    torch.backends.cudnn.benchmark = True
    found = registry()
    if "triton" in found.unavailable:
        raise InputError(f"the Triton kernels are unavailable: {found.unavailable['triton']}")
    return [i for name, i in found.implementations.items() if name in TORCH or i.family == "triton"]


def add_energy(record: Record, kernels: list[Implementation], device: str, seconds: float) -> None:
    """Energy of one call, for the fastest of both sides, on the largest layer of each line of the targets."""
    import torch

    by_name, end, watch = {i.name: i for i in kernels}, monotonic() + seconds, Watch(device)
    for row in fastest_of_the_largest(record.rows):
        if monotonic() > end or not row.gpu:
            return
        case = Case(spec_of(row), row.pass_, row.dtype, row.device, row.suite, row.case)
        with torch.inference_mode(), precision(case.device, case.dtype):
            kernel = by_name[row.implementation].build(case)
            operands = Checker(case).timing_operands(by_name[row.implementation], kernel)
            row.gpu.energy_j = energy_j(partial(kernel.run, *operands), device, watch)


def fastest_of_the_largest(rows: list[RecordedRow]) -> list[RecordedRow]:
    """For each line of the targets its layer of most MACs, and of that the fastest row of each family."""
    timed = [row for row in rows if row.median_s and not (row.gpu and row.gpu.graph)]
    largest: dict[str, RecordedRow] = {}
    for row in timed:
        line = line_of(row)
        if line not in largest or (row.macs or 0) > (largest[line].macs or 0):
            largest[line] = row
    keys = {case_key(row) for row in largest.values()}
    fastest: dict[tuple, RecordedRow] = {}
    for row in sorted(timed, key=lambda row: row.median_s or 0):
        if case_key(row) in keys:
            fastest.setdefault((case_key(row), row.implementation.partition(".")[0]), row)
    return list(fastest.values())


def sanitized(device: str) -> str:
    """What compute-sanitizer says of the kernels on small shapes: whether they reach out of bounds."""
    if device == "cpu":
        return "needs a GPU"
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if not tool:
        return "not found on this machine"
    command = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-m", "tests.kernels.interpreted"]
    with tempfile.TemporaryDirectory() as folder:  # block sizes that are fastest under the tool are nobody's
        words = {"cwd": Path(__file__).parents[1], "env": os.environ | {"CONVBENCH_CACHE_DIR": folder}}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SANITIZER_S, **words)
        except subprocess.TimeoutExpired:
            return f"no error in {SANITIZER_S:.0f} s, not finished"
    last = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1:]
    return f"exit status {done.returncode}: {' '.join(last)}"


def write(record: Record, folder: Path) -> None:
    paths = write_outputs(record, folder)
    try:
        from convbench.report import write as write_report

        write_report(record, folder / "report.html")
        paths["report.html"] = folder / "report.html"
    except InputError as error:
        err().print(f"no report.html: {error}")
    out().print(*paths.values(), sep="\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--minutes", type=float, default=6.8, help="end after the case in which they are over")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32", "tf32"])
    parser.add_argument("--suites", nargs="+", help="instead of the targets and the published networks")
    parser.add_argument("--max-time", type=float, default=0.05, help="longest sampling of one cell, in seconds")
    options = parser.parse_args()
    record = run(options, planning.select_devices([options.device])[0])
    write(record, options.out)
    show(record, {EPILOGUE: epilogue_lines(record)})
    return EXIT_SOME_CELLS_FAILED if any(row.status in FAILED_STATUSES for row in record.rows) else EXIT_OK


def epilogue_lines(record: Record) -> list[tuple[float, str]]:
    return [(r, found["layer"]) for found in record.settings["bias_relu"] if (r := gpu_epilogue.ratio(found))]


if __name__ == "__main__":
    raise SystemExit(main())
