"""`convbench count`: what the layers cost on paper; imports neither torch nor numba without --crosscheck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from convbench import count
from convbench.case import Case
from convbench.cli import common
from convbench.plan import Selection, select_cases
from convbench.receptive_field import Window, receptive_fields
from convbench.suites import Suite, resolve

TOTALLED = ("macs", "valid_macs", "flops", "params", "bytes")


@click.command(epilog="Examples:  convbench count vgg16  |  convbench count mobilenet_v1 mobilenet_v1_full  |  "
               "convbench count my_layers.toml --crosscheck  |  convbench count resnet50 --json")  # fmt: skip
@common.selection_options
@click.option("--crosscheck", is_flag=True, help="Compare with fvcore and torch.utils.flop_counter, layer by layer.")
@common.json_option
def command(selection: Selection, crosscheck: bool, as_json: bool) -> None:
    """MACs, FLOPs, parameters, bytes, intensity and receptive field of suites, layer by layer.

    1 MAC = 2 FLOPs. Totals count each layer as often as its network uses it.
    """
    cases = select_cases(selection, common.DEFAULT_SUITE, "forward", selection.devices or ("cpu",))
    suites = [resolve(name) for name in selection.suites or (common.DEFAULT_SUITE,)]
    fields = {(suite.name, name): field for suite in suites for name, field in fields_by_layer(suite).items()}
    rows = [count_row(case, fields.get((case.suite, case.name))) for case in cases]
    totals = {suite.name: suite_totals(suite, [r for r in rows if r["suite"] == suite.name]) for suite in suites}
    checks: list[dict[str, Any]] = []
    if crosscheck:
        from convbench.crosscheck import crosscheck as check

        checks = check(cases)
    if as_json:
        # One suite, one flat object; several, one for each beside their sum.
        summed = {key: sum(t[key] for t in totals.values()) for key in next(iter(totals.values()))}
        common.emit_json("count", rows, totals=summed | {"suites": totals}, crosscheck=checks)
        return
    for suite in suites:
        _print(suite, [r for r in rows if r["suite"] == suite.name], totals[suite.name])
    if checks:
        columns = [
            ("case", "left"),
            ("pass", "left"),
            ("tool", "left"),
            "ours (MACs)",
            "theirs (MACs)",
            ("verdict", "left"),
        ]
        common.table("Cross-check", columns, [list(check.values()) for check in checks])


def fields_by_layer(suite: Suite) -> dict[str, int]:
    """Receptive field after each layer of a whole network's main path; empty for a mere list of layers."""
    if not suite.network:
        return {}
    windows, ends = [], {}
    for layer in (layer for layer in suite.layers if layer.main_path):
        spec = layer.spec
        windows += [Window(spec.r, spec.stride[0], spec.dilation[0])] * layer.count
        ends[layer.name] = len(windows) - 1
        windows += [Window(*layer.pool)] if layer.pool else []
    fields = receptive_fields(windows)
    return {name: fields[end] for name, end in ends.items()}


def count_row(case: Case, field: int | None) -> dict[str, Any]:
    """One layer: the CSV's columns where it has them, and flops, intensity, receptive_field."""
    spec = case.spec
    return {
        "suite": case.suite, "case": case.name, "operator": spec.operator, "kind": spec.kind, "pass": case.pass_,
        "dtype": case.dtype, "n": spec.n, "c": spec.c, "h": spec.h, "w": spec.w, "k": spec.k, "r": spec.r, "s": spec.s,
        "p": spec.p, "q": spec.q, "count": case.count,
        "macs": count.macs(spec, case.pass_), "valid_macs": count.valid_macs(spec, case.pass_),
        "flops": count.flops(spec, case.pass_), "params": count.params(spec), "bytes": count.compulsory_bytes(case),
        "intensity": count.intensity(case), "receptive_field": field,
    }  # fmt: skip


def suite_totals(suite: Suite, rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Sums over the convolutions, and of the whole network with what else it consists of."""
    totals = {key: sum(row[key] * row["count"] for row in rows) for key in TOTALLED}
    return totals | {
        "network_macs": totals["macs"] + sum(other.macs * other.count for other in suite.others),
        "network_params": totals["params"] + sum(other.params * other.count for other in suite.others),
    }


def _print(suite: Suite, rows: list[dict[str, Any]], totals: dict[str, int]) -> None:
    shown = (
        "case",
        "pass",
        "kind",
        "count",
        "shape",
        "macs",
        "valid_macs",
        "params",
        "bytes",
        "intensity",
        "receptive_field",
    )
    left = ("case", "pass", "kind", "shape")
    lines = []
    for row in rows:
        shape = f"{row['c']}x{row['h']}x{row['w']} -> {row['k']}x{row['p']}x{row['q']}, {row['r']}x{row['s']}"
        lines.append([shape if key == "shape" else _text(row[key]) for key in shown])
    common.table(f"{suite.name}: {suite.description}", [(k, "left") if k in left else k for k in shown], lines)
    say = common.out().print
    say(f"convolutions: {totals['macs']:,} MACs = {totals['flops']:,} FLOPs, {totals['params']:,} parameters")
    if suite.network:
        say(f"network: {totals['network_macs']:,} MACs, {totals['network_params']:,} parameters")
    say()


def _text(value: Any) -> str:
    return common.number(value) if isinstance(value, (int, float)) else value or ""
