"""Puts the page together: what the template shows, the scripts with their hashes, the chart data."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from convbench.errors import InputError
from convbench.report import analysis, charts, tables, text
from convbench.results import COLUMNS, Record
from convbench.savings import analyse

_FOLDER = Path(__file__).parent
_BUNDLE_NAMES = "window.vegaEmbed = vegaEmbed;"


def page(record: Record) -> str:
    """The whole page as text."""
    jinja2 = _needed("jinja2", "jinja2")
    _needed("altair", "altair")
    bundle = _bundle()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"seconds": text.seconds, "percent": text.percent, "times": text.times,
                            "significant": text.significant, "interval": text.interval, "error": text.error,
                            "shape": text.shape, "tint": text.tint}  # fmt: skip
    scripts, style = [bundle, *_own_scripts()], _file("style.css")
    markup = import_module("markupsafe").Markup
    return environment.get_template("page.html.j2").render(
        context(text.clean_record(record)),
        policy=content_security_policy(scripts, style), style=markup(style), scripts=[markup(s) for s in scripts],
        json=lambda value: markup(json_text(value)),
    )  # fmt: skip


def context(record: Record) -> dict[str, Any]:
    """All that the template shows of a clean record."""
    rows = record.rows
    data = charts.cells(rows, charts.layer_labels(rows))
    columns, lines = tables.result_table(rows)
    failed = analysis.failed_rows(rows)
    return {
        "record": record, "when": _when(record), "took": text.duration(_took(record)),
        "sampling": _share(record), "suites": _distinct(rows, "suite"), "devices": _distinct(rows, "device"),
        "dtypes": _distinct(rows, "dtype"), "passes": _distinct(rows, "pass_"),
        "layers": len({analysis.case_key(row) for row in rows}), "reference": analysis.reference_of(rows),
        "timed": sum(bool(row.median_s) for row in rows), "failed": failed,
        "verified": sum(row.status == "ok" and row.error is not None for row in rows),
        "unsupported": sum(row.status == "unsupported" for row in rows),
        "groups": analysis.groups(rows), "kinds": _distinct(rows, "kind"),
        "implementations": charts.styles(rows), "totals": analysis.suite_totals(rows),
        "savings": analyse(record), "verification": analysis.verification(rows), "notices": analysis.notices(record),
        "facts": tables.machine_facts(record), "everything": tables.everything(record),
        "peaks": tables.peak_lines(record.peaks), "columns": columns, "lines": lines,
        "statuses": _distinct(rows, "status"), "constants": tables.constants(rows), "documentation": COLUMNS,
        "cells": data, "places": list(dict.fromkeys(data["place"])), "roofs": charts.roofs(record.peaks, data),
        "specs": {"roofline": charts.roofline_spec(rows, record.peaks, data), "speedup": charts.speedup_spec(rows)},
    }  # fmt: skip


def json_text(value: Any) -> str:
    """JSON that cannot end a script element or a line of JavaScript, whatever its strings hold."""
    raw = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        raw = raw.replace(character, f"\\u{ord(character):04x}")
    return raw


def content_security_policy(scripts: list[str], style: str) -> str:
    """Nothing but these scripts and this style: no network, no eval, no other inline code."""
    hashes = " ".join(_hash(script) for script in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script of about 0.9 MB; a second to make, so kept."""
    vl_convert = _needed("vl_convert", "vl-convert-python")
    return _inline(vl_convert.javascript_bundle(_BUNDLE_NAMES), "the chart library")


def _own_scripts() -> list[str]:
    return [_inline(_file(name), name) for name in ("vendor/sortable.js", "vendor/sortable.a11y.js", "page.js")]


def _inline(script: str, name: str) -> str:
    # Either would end or change the script element it stands in.
    assert "</script" not in script.lower() and "<!--" not in script, name
    return script.replace("\r\n", "\n")


def _file(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")


def _needed(module: str, package: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError:
        raise InputError(
            f"report.html needs {package}, which is not installed: `pip install {package}`, or copy run.json to a "
            "machine that has it and render it there with `convbench report run.json`"
        ) from None


def _distinct(rows: list[Any], name: str) -> list[str]:
    return list(dict.fromkeys(getattr(row, name) for row in rows))


def _moment(value: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(value or "")
    except ValueError:
        return None


def _when(record: Record) -> str:
    moment = _moment(record.started)
    return f"{moment:%Y-%m-%d %H:%M %Z}".strip() if moment else record.started


def _took(record: Record) -> float | None:
    return record.timings.get("total")


def _share(record: Record) -> str:
    total, sampling = record.timings.get("total"), record.timings.get("sample")
    return text.percent(sampling / total) if total and sampling else ""
