"""`convbench verify`: correctness only, every pass unless told otherwise."""

from __future__ import annotations

from contextlib import closing

import click

from convbench.cli import common
from convbench.errors import EXIT_CHECK_FAILED, EXIT_OK
from convbench.plan import Selection


@click.command(
    epilog=common.examples(
        "convbench verify",
        "convbench verify --impl numba --pass forward",
        "convbench verify mobilenet_v1 --impl numba.auto --json",
    )
)
@common.selection_options
@click.option("--full", is_flag=True, help="The textbook kernels and torch.compile too.")
@click.option("--threads", type=int, metavar="N", help="Threads for every implementation (default: all CPUs).")
@click.option("--seed", type=common.Seed(), default=0, show_default=True, help="Seed of the data.")
@common.isolate_option
@common.json_option
def command(
    selection: Selection, full: bool, threads: int | None, seed: int, isolate: bool | None, as_json: bool
) -> int:
    """Check that implementations are right, without timing.

    Against torch.nn.functional: exactly on integers, to float64 on real numbers. Exits with 1 when a check fails.
    """
    from convbench import plan as planning

    planning.check_suites(selection, common.DEFAULT_SUITE)
    from convbench.process import prepare

    threads = prepare(threads)
    from convbench.isolate import Isolated
    from convbench.measure import Policy
    from convbench.registry import registry
    from convbench.run import Plan, verify_plan

    cases = planning.select_cases(selection, common.DEFAULT_SUITE, "all", planning.select_devices(selection.devices))
    planning.check_precision(cases)
    implementations = planning.select_implementations(registry(), selection, everything=full)
    isolated = common.isolated(isolate, implementations)
    with closing(Isolated(timed=False)) as worker:
        plan = Plan(cases, worker.shield(implementations, isolated), Policy(), threads, seed,
                    frozenset(selection.implementations), isolated)  # fmt: skip
        rows = verify_plan(plan, lambda row: _report(row, as_json), worker)
    failed = [row for row in rows if row.status not in ("ok", "unsupported")]
    checked = sum(row.status == "ok" for row in rows) + len(failed)
    if as_json:
        common.emit_json("verify", rows, totals={"checked": checked, "failed": len(failed)})
    else:
        common.out().print(f"{checked} checked on {len(cases)} cases, {len(failed)} failed")
    return EXIT_CHECK_FAILED if failed else EXIT_OK


def _report(row, as_json: bool) -> None:
    """One line a cell as it is done: to stdout, or to stderr next to a JSON document."""
    console = common.err() if as_json else common.out()
    error = "" if row.error is None else f"error {row.error:.1e} of {row.tolerance:.1e} allowed"
    detail = row.status_detail or error
    console.print(common.printable(
        f"{row.status:11} {row.implementation:20} {row.suite}/{row.case} {row.pass_} {row.dtype}  {detail}"
    ))  # fmt: skip
