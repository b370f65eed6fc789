"""`convbench count`: what the layers cost on paper; imports neither torch nor numba without --crosscheck."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from convbench import count
from convbench.case import Case
from convbench.cli import common
from convbench.plan import Selection, device_name, select_cases
from convbench.receptive_field import Field
from convbench.spec import Pair
from convbench.suites import Suite, resolve

SUMMED = ("macs", "valid_macs", "flops", "params", "bytes")
_SHOWN = ("case", "pass", "kind", "count", "shape", *SUMMED[:2], *SUMMED[3:], "intensity", "receptive_field",
          "coverage")  # fmt: skip
_SPARE = ("kind", "intensity", "bytes", "valid_macs", "pass", "params", "coverage", "receptive_field", "count", "shape")
_TEXTS = ("case", "pass", "kind", "shape", "tool", "verdict")


@click.command(
    epilog=common.examples(
        "convbench count vgg16",
        "convbench count mobilenet_v1 mobilenet_v1_full",
        "convbench count unet --pass all --crosscheck",
        "convbench count resnet50 --json",
        "convbench count --model my_net.py:make --input 1,3,224,224 --save-suite my_net.toml",
    )
)
@common.selection_options
@common.save_suite_option
@click.option("--crosscheck", is_flag=True, help="Compare with fvcore and torch.utils.flop_counter, layer by layer.")
@common.json_option
def command(selection: Selection, save_suite: Path | None, crosscheck: bool, as_json: bool) -> None:
    """What layers cost on paper: MACs, parameters, bytes.

    Also intensity, receptive field, and coverage: the share of the field's pixels that are read, below 1 where dilation
    leaves gaps. Both are exact along a sequential suite or a model's trace, the whole input after a mean over the
    image, and empty where they are not known, as after an up-sampling.
    One line a layer, and the totals of each suite. 1 MAC = 2 FLOPs. Totals count each layer as often as its network
    uses it.
    """
    devices = list(dict.fromkeys(map(device_name, selection.devices or ("cpu",))))
    cases = select_cases(selection, common.DEFAULT_SUITE, "forward", devices)
    common.save_suite(selection, save_suite)
    suites = {suite.name: suite for suite in map(resolve, selection.suites or (common.DEFAULT_SUITE,))}
    fields = {name: suite.receptive_fields() for name, suite in suites.items()}
    rows = [count_row(case, fields[case.suite].get(case.name)) for case in cases]
    totals = {
        name: suite_totals(suite, [row for row in rows if row["suite"] == name], whole=not selection.cases)
        for name, suite in suites.items()
    }
    checks: list[dict[str, Any]] = []
    notes: list[str] = []
    if crosscheck:
        from convbench.crosscheck import crosscheck as check

        checks, notes = check(cases)
    if as_json:
        more = {"crosscheck": checks, "crosscheck_notes": notes} if crosscheck else {}
        common.emit_json("count", rows, totals=_summed(list(totals.values())) | {"suites": totals}, **more)
        return
    for name, suite in suites.items():
        _print(suite, [row for row in rows if row["suite"] == name], totals[name])
    if crosscheck:
        _print_checks(checks, notes)


def count_row(case: Case, field: Field | None) -> dict[str, Any]:
    """One layer: the CSV's columns where it has them, and flops, intensity, receptive_field, coverage.

    A receptive field with two different sides is the pair (height, width).
    """
    spec = case.spec
    pairs = {f"{name}_{axis}": getattr(spec, name)[i] for name in ("stride", "padding", "dilation", "output_padding")
             for i, axis in enumerate("hw")}  # fmt: skip
    return {
        "suite": case.suite, "case": case.name, "operator": spec.operator, "kind": spec.kind, "pass": case.pass_,
        "dtype": case.dtype, "n": spec.n, "c": spec.c, "h": spec.h, "w": spec.w, "k": spec.k, "r": spec.r, "s": spec.s,
        **pairs, "groups": spec.groups, "p": spec.p, "q": spec.q, "count": case.count,
        "macs": count.macs(spec, case.pass_), "valid_macs": count.valid_macs(spec, case.pass_),
        "flops": count.flops(spec, case.pass_), "params": count.params(spec), "bytes": count.compulsory_bytes(case),
        "intensity": count.intensity(case), "receptive_field": _square(field and field.size),
        "coverage": field and field.coverage,
    }  # fmt: skip


def suite_totals(suite: Suite, rows: list[dict[str, Any]], whole: bool) -> dict[str, Any]:
    """Sums over the rows, each times its count; with ``whole``, also over what else the network consists of.

    Several passes add up in all but the parameters.
    """
    first = [row for row in rows if (row["pass"], row["dtype"]) == (rows[0]["pass"], rows[0]["dtype"])]
    totals: dict[str, Any] = {
        key: sum(row[key] * row["count"] for row in (first if key == "params" else rows)) for key in SUMMED
    }
    if not whole:
        return totals
    others = sum(other.macs * other.count for other in suite.others)
    return totals | {
        "network_macs": totals["macs"] + others * len({(row["pass"], row["dtype"]) for row in rows}),
        "network_params": totals["params"] + sum(other.params * other.count for other in suite.others),
        "receptive_field": _square(suite.receptive_field()),
    }


def _summed(totals: list[dict[str, Any]]) -> dict[str, Any]:
    """One suite's totals as they are; of several suites the sums."""
    if len(totals) == 1:
        return totals[0]
    return {key: sum(t[key] for t in totals) for key in totals[0] if key != "receptive_field"}


def _square(field: Pair | None) -> int | Pair | None:
    return field[0] if field and field[0] == field[1] else field


def _print(suite: Suite, rows: list[dict[str, Any]], totals: dict[str, Any]) -> None:
    lines = []
    for row in rows:
        shape = f"{row['c']}x{row['h']}x{row['w']} -> {row['k']}x{row['p']}x{row['q']}, {row['r']}x{row['s']}"
        lines.append([shape if key == "shape" else _text(row[key]) for key in _SHOWN])
    common.table(f"{suite.name}: {suite.description}", _columns(_SHOWN), lines, spare=_SPARE)
    say = common.out().print
    say(f"convolutions: {totals['macs']:,} MACs = {totals['flops']:,} FLOPs, {totals['params']:,} parameters")
    if suite.network and "network_macs" in totals:
        field = totals["receptive_field"]
        say(f"network: {totals['network_macs']:,} MACs, {totals['network_params']:,} parameters"
            + (f", receptive field {_text(field)}" if field else ""))  # fmt: skip
    say()


def _print_checks(checks: list[dict[str, Any]], notes: list[str]) -> None:
    if checks:
        common.table("Cross-check", _columns(tuple(checks[0])), [[_text(v) for v in c.values()] for c in checks])
    for note in notes:
        common.out().print(common.printable(note))


def _columns(names: tuple[str, ...]) -> list[str | tuple[str, str]]:
    return [(name, "left") if name in _TEXTS else name for name in names]


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return common.number(value) if isinstance(value, (int, float)) else value or ""
