"""Puts the page together: what the template shows, the scripts with their hashes, the chart data."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from convbench.report import analysis, charts, shell, tables, text
from convbench.results import COLUMNS, Record
from convbench.savings import analyse


def page(record: Record) -> str:
    """The whole page as text."""
    shell.needed("altair", "altair")
    shown = context(text.clean_record(record))
    return shell.render("page.html.j2", shown, {name: shown[name] for name in ("cells", "roofs", "specs")}, "page.js")


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
