"""How far ahead the Numba kernels are, operator by operator, over the distinct layers of all built-in suites.

    python benchmarks/operators.py [--passes forward ...] [--threads 1 2] [--suites ...] [--batch N] [--layers]
                                   [--single] [--max-time 0.25] [--out reports/...]

Times numba.auto, torch.aten, torch.channels_last and whatever is prepacked through convbench's own run: verified,
interleaved, paired by rounds. Prints a table for each of our implementations and pass: torch time / our time as a
geometric mean and for the worst layer, and the mean against the fastest of torch in any format. What is prepacked
is held against torch's prepacked ones too. --single also times each kernel that numba.auto chooses from, and says how
far its choice is behind the best of them.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import geometric_mean

from convbench import plan as planning
from convbench.cli.common import err, number, out, table
from convbench.cli.progress import live
from convbench.cli.summary import shape
from convbench.errors import EXIT_OK, EXIT_SOME_CELLS_FAILED
from convbench.machine.noise import snapshot, warnings
from convbench.measure import Policy
from convbench.process import keep_freed_memory, prepare
from convbench.registry import registry
from convbench.report.analysis import case_key
from convbench.results import FAILED_STATUSES, Record, RecordedRow
from convbench.roofline import attainable
from convbench.run import Plan, begin, execute, write_outputs
from convbench.spec import KINDS
from convbench.suites import names

STANDARD_3X3, STANDARD_OTHER = "standard 3x3 stride 1", "standard, other"
GROUPS = (STANDARD_3X3, STANDARD_OTHER, *KINDS[1:], "all")  # KINDS[0] is standard
PREPACKED = "prepacked"
# What our time is held against, the fastest on each layer: torch on plain NCHW tensors, and torch in any format.
PLAIN, ANY = ("torch.aten",), ("torch.aten", "torch.channels_last")
PLAIN_PACKED = (*PLAIN, "torch.prepacked")
ANY_PACKED = (*ANY, "torch.prepacked", "torch.channels_last_prepacked")

AUTO, TOLERATED = "numba.auto", 1.05  # times the fastest single kernel's time

Layer = dict[str, RecordedRow]  # implementation -> its row


def distinct_cases(suites: list[str], passes: list[str], batch: int | None) -> list[planning.Case]:
    """Each convolution x pass once, under the name of the first suite that has it."""
    found: dict[tuple, planning.Case] = {}
    selection = planning.Selection(suites=tuple(suites), passes=tuple(passes))
    for case in planning.select_cases(selection, "default", "forward", ["cpu"]):
        case = replace(case, spec=replace(case.spec, n=batch or case.spec.n))
        found.setdefault((case.spec, case.pass_), case)
    return list(found.values())


def run(study: str, cases: list[planning.Case], names: Iterable[str], threads: int, max_time_s: float) -> Record:
    """Verify and time the cases on these implementations; an interrupt leaves what is finished."""
    implementations = [registry().implementations[name] for name in names]
    plan, before = Plan(cases, implementations, Policy(max_time_s=max_time_s), threads), snapshot()
    record = begin(plan, {"study": study, "threads": threads, "policy": plan.policy, "seed": plan.seed})
    try:
        with live(plan) as progress:
            execute(plan, record, progress)
        record.complete = True
    except KeyboardInterrupt:
        err().print("interrupted: the tables show what is finished")
    record.warnings += warnings(before, snapshot())
    return record


def group(row: RecordedRow) -> str:
    """The line of the table that a layer counts in."""
    if row.kind != "standard":
        return row.kind
    return STANDARD_3X3 if (row.r, row.s, row.stride_h, row.stride_w) == (3, 3, 1, 1) else STANDARD_OTHER


def ratio(layer: Layer, ours: str, against: tuple[str, ...]) -> float:
    """Time of the fastest of `against` / our time, each paired with the reference round by round."""
    best = max(row.speedup_vs_reference or 0 for name, row in layer.items() if name in against)
    return (layer[ours].speedup_vs_reference or 0) / best


def group_line(name: str, layers: list[Layer], ours: str, plain: tuple[str, ...], fastest: tuple[str, ...]) -> list:
    by_ratio = sorted((ratio(layer, ours, plain), f"{layer[ours].suite}/{layer[ours].case}") for layer in layers)
    means = [geometric_mean(ratio(layer, ours, against) for layer in layers) for against in (plain, fastest)]
    return [name, f"{means[0]:.2f}x", f"{by_ratio[0][0]:.2f}x", by_ratio[0][1], f"{means[1]:.2f}x", len(layers)]


def layer_line(layer: Layer, ours: str, plain: tuple[str, ...], record: Record) -> list:
    row = layer[ours]
    flops_per_s, bytes_per_s = 2 * row.valid_macs / row.median_s, row.bytes / row.median_s
    roof = attainable(2 * row.valid_macs, row.bytes, record.peaks, row.device, row.dtype)
    shares = (f"{flops_per_s / roof.peak_flops_per_s:.0%}", f"{bytes_per_s / roof.bytes_per_s:.0%} of {roof.level}")
    return [f"{row.suite}/{row.case}", shape(row), row.algorithm, f"{ratio(layer, ours, plain):.2f}x",
            number(row.gflops), shares[0], number(row.gbytes_per_s), shares[1]]  # fmt: skip


def behind(layer: Layer) -> float:
    """numba.auto's time / that of the fastest kernel of another algorithm; below 1 its choice is the best."""
    return max(row.speedup_vs_reference or 0 for row in singles(layer)) / (layer[AUTO].speedup_vs_reference or 1)


def singles(layer: Layer) -> list[RecordedRow]:
    """Kernels that compute it in another way: the same one would differ by noise only."""
    ours = [row for name, row in layer.items() if name.startswith("numba.")]
    return [row for row in ours if row.algorithm != layer[AUTO].algorithm]


def choice_line(name: str, layers: list[Layer]) -> list:
    found = sorted(((behind(layer), layer) for layer in layers), key=lambda one: one[0])
    worst = found[-1][1]
    best = max(singles(worst), key=lambda row: row.speedup_vs_reference or 0)
    where, why = f"{best.suite}/{best.case}", f"{worst[AUTO].algorithm}, not {best.algorithm}"
    return [name, f"{geometric_mean(b for b, _ in found):.3f}x", f"{found[-1][0]:.2f}x", where, why,
            sum(b > TOLERATED for b, _ in found), len(found)]  # fmt: skip


def show_choices(layers: list[Layer], pass_: str) -> None:
    """How good numba.auto's table is, where single kernels were timed."""
    members = {name: [la for la in layers if name in (group(la[AUTO]), "all") and singles(la)] for name in GROUPS}
    if members["all"]:
        columns = ["mean", "worst", ("worst layer", "left"), ("algorithm", "left"), "over 5%", "layers"]
        table(
            f"{AUTO}, {pass_}: its time / the fastest other kernel's",
            [("kind", "left"), *columns],
            [choice_line(name, found) for name, found in members.items() if found],
        )


def show(record: Record, threads: int, per_layer: bool) -> None:
    """Tables of each pass and each implementation of ours."""
    with_threads = f"{threads} thread{'s' * (threads > 1)}"
    by_case: dict[tuple, Layer] = defaultdict(dict)
    for row in record.rows:
        if row.speedup_vs_reference:
            by_case[case_key(row)][row.implementation] = row
    timed = dict.fromkeys((row.pass_, row.implementation) for layer in by_case.values() for row in layer.values())
    for pass_, ours in (key for key in timed if not key[1].startswith("torch.")):
        plain, fastest = (PLAIN_PACKED, ANY_PACKED) if ours.endswith(PREPACKED) else (PLAIN, ANY)
        layers = [layer for layer in by_case.values() if ours in layer and layer[ours].pass_ == pass_]
        members = {name: [la for la in layers if name in (group(la[ours]), "all")] for name in GROUPS}
        table(
            f"{ours}, {pass_}, {with_threads}: time of {' or '.join(plain)} / its time",
            [("kind", "left"), "mean", "worst", ("worst layer", "left"), "mean, any format", "layers"],
            [group_line(name, found, ours, plain, fastest) for name, found in members.items() if found],
            note=f"geometric means; any format: against the fastest of {', '.join(fastest)}",
        )
        if ours == AUTO:
            show_choices(layers, pass_)
        if per_layer:
            table(
                f"{ours}, {pass_}, {with_threads}",
                [("layer", "left"), ("shape", "left"), ("algorithm", "left"), "ratio", "GFLOP/s", "of peak", "GB/s",
                 "of bandwidth"],
                [layer_line(layer, ours, plain, record) for layer in layers],
                note="GFLOP/s counts all taps; of peak those on real input, against the measured FMA or GEMM peak",
            )  # fmt: skip
    failed = [row for row in record.rows if row.status in FAILED_STATUSES]
    for text in (f"{len(failed)} of {len(record.rows)} cells failed", *record.warnings):
        out().print(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", nargs="+", choices=tuple(planning.PASS_GROUPS), default=["forward"])
    parser.add_argument("--threads", nargs="+", type=int, default=[], help="a run for each (default: all CPUs)")
    parser.add_argument("--suites", nargs="+", default=list(names()), help="names or .toml files (default: all)")
    parser.add_argument("--batch", type=int, help="instead of the suites' own")
    parser.add_argument("--max-time", type=float, default=0.25, help="longest sampling of one cell, in seconds")
    parser.add_argument("--single", action="store_true", help="time each kernel that numba.auto chooses from too")
    parser.add_argument("--layers", action="store_true", help="list every layer too")
    parser.add_argument("--out", type=Path, help="folder for run.json and results.csv, one below it a thread count")
    options = parser.parse_args()
    cases, failed = distinct_cases(options.suites, options.passes, options.batch), False
    timed = [i for i in registry().implementations if i in (AUTO, *ANY) or i.endswith(PREPACKED)]
    if options.single:
        from convbench_kernels.numba_cpu.auto import TABLE

        timed += [row.name for row, _ in TABLE]
    keep_freed_memory()
    for threads in sorted(options.threads, reverse=True) or [prepare(None)]:  # thread pools can shrink, not grow
        record = run("operators", cases, timed, prepare(threads), options.max_time)
        show(record, threads, options.layers)
        failed |= any(row.status in FAILED_STATUSES for row in record.rows)
        if options.out:
            folder = options.out / f"{threads}-threads"
            folder.mkdir(parents=True, exist_ok=True)
            out().print(*write_outputs(record, folder).values())
    return EXIT_SOME_CELLS_FAILED if failed else EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
