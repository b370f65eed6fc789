"""The whole GPU study in one command and one record: verify, tune and time every Triton kernel against torch.

    python benchmarks/gpu.py --out reports/h100 [--minutes 7] [--batch 32] [--dtypes float32 bfloat16] [--device cuda:0]

Layers of published networks, all passes, forward first, one of each kind in turn, so that a run that ends at its time
limit has something of everything. torch gets cudnn.benchmark and both its layouts; TF32 is off on both sides. What is
finished is kept as it comes (journal.jsonl); run.json, results.csv and, where the chart library is installed,
report.html are written at the end. Prints, for each kind, pass and type: the best of torch in any layout / the best of
ours, as a geometric mean and for the worst layer.

Without a GPU, TRITON_INTERPRET=1, --device cpu and --suites with a file of small layers show that the script works; the
times mean nothing.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from statistics import geometric_mean
from time import monotonic

from convbench import plan as planning
from convbench.case import Case
from convbench.cli.common import err, out, table
from convbench.cli.progress import live
from convbench.errors import EXIT_OK, EXIT_SOME_CELLS_FAILED, InputError
from convbench.journal import Header, Journal
from convbench.machine.noise import snapshot, warnings
from convbench.measure import Policy
from convbench.process import keep_freed_memory, prepare
from convbench.registry import registry
from convbench.report.analysis import case_key
from convbench.results import FAILED_STATUSES, Record, RecordedRow
from convbench.run import Plan, begin, execute, write_outputs

SUITES = ("mobilenet_v1", "resnet50", "deeplabv3", "unet", "dcgan", "separable")
FAMILIES = ("torch", "triton")


def fair() -> None:
    """torch's best honest conditions: cuDNN tries its algorithms; float32 is float32 on both sides."""
    import torch

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def cases(options: argparse.Namespace, device: str) -> list[Case]:
    """Each convolution once, pass by pass, kinds in turn."""
    suites = ("quick",) if options.quick else tuple(options.suites)
    selection = planning.Selection(suites=suites, passes=("all",), dtypes=tuple(options.dtypes))
    found: dict[tuple, Case] = {}
    for case in planning.select_cases(selection, "default", "all", [device]):
        case = replace(case, spec=replace(case.spec, n=options.batch))
        found.setdefault((case.spec, case.pass_, case.dtype), case)
    by_pass: dict[str, dict[str, list[Case]]] = defaultdict(lambda: defaultdict(list))
    for case in found.values():
        by_pass[case.pass_][case.spec.kind].append(case)
    return list(chain.from_iterable(in_turn(kinds.values()) for kinds in by_pass.values()))


def in_turn(lists: Iterable[list[Case]]) -> list[Case]:
    return [case for round_ in zip_longest(*lists) for case in round_ if case]


def run(options: argparse.Namespace, device: str) -> Record:
    """Verify and time until done, or until the minutes are over."""
    end = monotonic() + 60 * options.minutes
    threads = prepare(None)
    keep_freed_memory()
    fair()
    found, before = registry(), snapshot()
    if "triton" in found.unavailable:
        raise InputError(f"the Triton kernels are unavailable: {found.unavailable['triton']}")
    kernels = [i for i in found.implementations.values() if i.family in FAMILIES and "compile" not in i.name]
    plan = Plan(cases(options, device), kernels, Policy(0.01, options.max_time), threads)
    journal = Journal(options.out)
    journal.claim()
    record = begin(plan, {"study": "gpu", "threads": threads, "policy": plan.policy, "seed": 0}, options.quick)
    journal.start(Header(record=record, cases=plan.cases, implementations=[i.name for i in kernels], policy=plan.policy,
                         threads=threads, seed=0))  # fmt: skip
    try:
        with live(plan) as progress:
            execute(plan, record, progress, journal, interrupted=lambda: monotonic() > end)
        record.complete = True
    except KeyboardInterrupt:
        err().print(f"{len(record.rows)} rows of {len(plan.cases)} cases are finished; the rest had no time")
    record.warnings += warnings(before, snapshot())
    return record


def show(record: Record) -> None:
    """The best of torch / the best of ours, by kind, pass and type."""
    by_case: dict[tuple, dict[str, RecordedRow]] = defaultdict(dict)
    for row in record.rows:
        if row.speedup_vs_reference:
            by_case[case_key(row)][row.implementation] = row
    groups: dict[tuple[str, ...], list[tuple[float, str]]] = defaultdict(list)
    for rows in by_case.values():
        timed = [(name.partition(".")[0], row.speedup_vs_reference or 0) for name, row in rows.items()]
        best = {family: max((s for f, s in timed if f == family), default=0) for family in FAMILIES}
        row = next(iter(rows.values()))
        if all(best.values()):
            ratio = best["triton"] / best["torch"]
            groups[row.kind, row.pass_, row.dtype].append((ratio, f"{row.suite}/{row.case}"))
    lines = [
        [*key, f"{geometric_mean(r for r, _ in found):.2f}x", f"{min(found)[0]:.2f}x", min(found)[1], len(found)]
        for key, found in sorted(groups.items())
    ]
    columns = [("kind", "left"), ("pass", "left"), ("type", "left"), "mean", "worst", ("worst layer", "left"), "layers"]
    table(f"{record.machine}: best of torch, any layout / best of ours", columns, lines, "above 1: ours is faster")
    failed = [row for row in record.rows if row.status in FAILED_STATUSES]
    for row in failed[:20]:
        out().print(f"{row.status}: {row.implementation} {row.case} {row.pass_} {row.dtype}: {row.status_detail}")
    for text in (f"{len(failed)} of {len(record.rows)} cells failed", *record.warnings):
        out().print(text)


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
    parser.add_argument("--minutes", type=float, default=7.0, help="end after the case in which they are over")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--suites", nargs="+", default=list(SUITES))
    parser.add_argument("--max-time", type=float, default=0.05, help="longest sampling of one cell, in seconds")
    parser.add_argument("--quick", action="store_true", help="the quick suite, peaks looked at quickly")
    options = parser.parse_args()
    record = run(options, planning.select_devices([options.device])[0])
    write(record, options.out)
    show(record)
    return EXIT_SOME_CELLS_FAILED if any(row.status in FAILED_STATUSES for row in record.rows) else EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
