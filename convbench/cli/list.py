"""`convbench list`: suites, their layers, and implementations with what they cover."""

from __future__ import annotations

from contextlib import closing

import click

from convbench.cli import common
from convbench.plan import Selection

# One small case of each kind, to ask supports() with.
_PROBES: dict[str, dict] = {
    "standard": {"out_channels": 4, "kernel": 3, "padding": 1},
    "dilated": {"out_channels": 4, "kernel": 3, "padding": 2, "dilation": 2},
    "pointwise": {"out_channels": 4, "kernel": 1},
    "depthwise": {"out_channels": 4, "kernel": 3, "padding": 1, "groups": 4},
    "grouped": {"out_channels": 4, "kernel": 3, "padding": 1, "groups": 2},
    "transposed": {"operator": "conv_transpose2d", "out_channels": 4, "kernel": 4, "stride": 2, "padding": 1},
    "separable": {"operator": "separable_conv2d", "out_channels": 4, "kernel": 3, "padding": 1},
}
_SPARE = ("layout", "device", "summary", "spec", "kind")  # on a narrow terminal
_LETTERS = {"forward": "F", "data_gradient": "D", "weight_gradient": "W"}


@click.command(
    epilog=common.examples(
        "convbench list",
        "convbench list suites",
        "convbench list cases mobilenet_v1",
        "convbench list implementations --json",
    )
)
@click.argument("what", type=click.Choice(["all", "suites", "cases", "implementations"]), default="all")
@click.argument("suites", nargs=-1, metavar="[SUITE]...")
@common.json_option
def command(what: str, suites: tuple[str, ...], as_json: bool) -> None:
    """Suites, their layers, implementations and what they cover.

    WHAT is all, suites, cases (of the SUITEs named, or of the default suite) or implementations.
    """
    document: dict[str, list] = {}
    if what in ("all", "suites"):
        document["suites"] = _suites()
    if what == "cases":
        document["cases"] = _cases(suites or (common.DEFAULT_SUITE,))
    if what in ("all", "implementations"):
        document["implementations"], document["unavailable"] = _implementations()
    if as_json:
        rows = next(iter(document.values()))
        common.emit_json("list", rows, **document)
        return
    for title, rows in document.items():
        _print(title, rows)


def _suites() -> list[dict]:
    from convbench.suites import builtin, names

    suites = [builtin(name) for name in names()]
    return [{"suite": s.name, "layers": len(s.layers), "description": s.description} for s in suites]


def _cases(names: tuple[str, ...]) -> list[dict]:
    from convbench.plan import select_cases

    cases = select_cases(Selection(suites=names), common.DEFAULT_SUITE, "forward", ["cpu"])
    return [
        {"suite": c.suite, "case": c.name, "kind": c.spec.kind, "count": c.count, "spec": str(c.spec)} for c in cases
    ]


def _implementations() -> tuple[list[dict], list[dict]]:
    from convbench.isolate import Isolated
    from convbench.process import prepare
    from convbench.registry import registry

    prepare(None)
    import torch

    devices = ["cpu", "cuda:0"] if torch.cuda.is_available() else ["cpu"]
    found = registry()
    with closing(Isolated()) as worker:
        asked = worker.shield(found.implementations.values(), common.isolated(None, found.implementations.values()))
        rows = [
            {"implementation": i.name, "device": device, "layout": i.layout, "on_request": i.on_request,
             **_coverage(i, device), "summary": i.summary}
            for i in asked for device in devices
        ]  # fmt: skip
    return rows, [{"family": name, "reason": f"unavailable: {reason}"} for name, reason in found.unavailable.items()]


def _coverage(implementation, device: str) -> dict[str, str]:
    """Kind -> passes it computes (F, D, W); empty when the device or kind is not supported."""
    from convbench.case import Case
    from convbench.spec import PASSES, ConvSpec

    specs = {kind: ConvSpec.create([1, 4, 9, 9], **words) for kind, words in _PROBES.items()}
    return {
        kind: "".join(_LETTERS[p] for p in PASSES if not implementation.supports(Case(spec, p, device=device)))
        for kind, spec in specs.items()
    }


def _print(title: str, rows: list[dict]) -> None:
    if not rows:
        return
    texts = {"suite", "case", "kind", "spec", "description", "implementation", "device", "layout", "summary", "family",
             "reason", *_PROBES}  # fmt: skip
    note = "F forward, D data gradient, W weight gradient, float32" if title == "implementations" else ""
    shown = [name for name in rows[0] if name != "on_request"]
    columns = [(name, "left") if name in texts else name for name in shown]
    common.table(title, columns, [[row[name] for name in shown] for row in rows], note, _SPARE)
