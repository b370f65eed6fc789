"""Real files of every kind that convbench reads, and hypothesis strategies that damage them: used by fuzz_study.py.

A mutation knows the structure: it puts hostile values in place of values, drops, renames, repeats and swaps parts, and
then may damage the bytes. Pictures are damaged in tests/convbench/train/test_data.py, what kernels remember in
tests/kernels/test_tuning.py. What JSON or TOML has no value for (1e400, NaN, 100,000 brackets) goes in as text.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st

from convbench.gate.driver import Header as GateHeader
from convbench.gate.facts import Cell
from convbench.gate.procedure import ARMS, Quartet
from convbench.gate.request import Timed
from convbench.gate.verdicts import Rules
from convbench.journal import Entry, Header
from convbench.measure import Policy
from convbench.pytest_json import to_pytest_benchmark
from convbench.records import spec_of
from convbench.results import Record, RecordedRow, load, to_csv
from convbench.suites import builtin, to_toml

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "reports/amd-epyc-f26m2-2c/2026-11-26_115528/run.json"
TRAINED = ROOT / "reports/intel-xeon-f6m207-2c/train_segment/train.json"
CANARY = "/tmp/convbench-canary"  # a path that no command may open because a file says so
FORMS = ("dense", "separable")
SAMPLES = 31  # kept of each cell: enough for an interval of batches

TEXTS = (
    "=1+1", "+cmd|' /C calc'!A0", "@SUM(A1:A9)", "-2+3", "＝1+1", "\t=1", "</script><script>pwned=1</script>",
    "<img src=x onerror=pwned=1>", "\x1b]0;title\x07\x1b[2J", "\u202egpj.exe\u2066", "\x00", "\u2028", "\ud800",
    "../../../etc/passwd", CANARY, f"{CANARY}/run.json", f"file://{CANARY}", "::error::no", "%0A::error::no",
    "{{7*7}}", "${7*7}", "[x](javascript:pwned=1)", "|a|b|", "a\r\nb", "__proto__", "constructor", "nan", "1e400", "",
    "W" * 10_000, "conv2d", "cuda:0", "cpu", "float32", "torch.aten", "20260101T000000Z-ffff",
    "2026-02-30T99:99:99+99:99", "9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00", "2026-01-01T00:00:00",
)  # fmt: skip
JSON_TOKENS = (
    "NaN", "-Infinity", "1e400", "-1e308", "1e308", "5e-324", "-0.0", "0", "-1", "1", "2", "1e3", "1e-13", "2147483648",
    "1099511627776", "9223372036854775807", "18446744073709551616", "9" * 5000, "true", "false", "null", "[]", "{}",
    "[" * 3000 + "]" * 3000, "[" * 100_000, '{"a":' * 900 + "1" + "}" * 900, "[[],[[]],{}]", '{"a":[{"b":null}]}',
)  # fmt: skip
TOML_TOKENS = (
    "nan", "-inf", "1e400", "0", "-1", "1", "3", "true", "[]", "{}", "0xffffffffffffffffff", "9" * 5000, "1.5",
    "2026-01-01", "07:32:00", "[" * 3000 + "]" * 3000, "{a=" * 500 + "1" + "}" * 500, "[1, 2]", "[1, 3, 8, 8]",
    "[1, 99999999, 99999999, 9]", "[1, 1, 549755813888, 1]", "[274877906944, 1]", "4611686018427387904", "9" * 20,
    '"depthwise"', '"conv_transpose2d"', "'''a\nb'''",
)  # fmt: skip
CSV_CELLS = ("", "NaN", "inf", "1e400", "-1", "0", "1", "9" * 5000, "1_000", " 1", "0x10", '"', "a,b", "'=1",
             "W" * 140_000)  # fmt: skip
TOML_LINES = ("[[case]]", "[suite]", "[[other]]", "[[case.x]]", "a.b.c = 1", "'''")
LARGE = "W" * 10_000_000

texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=12))


# The files ------------------------------------------------------------------------------------------------


def originals() -> dict[str, bytes]:
    """Kind -> a file of it as convbench writes it, made of a published run."""
    whole = load(PUBLISHED)
    record = _short(whole)
    trained = json.loads(TRAINED.read_bytes())
    trained["examples"] = []
    toml = to_toml(replace(builtin("default"), others=builtin("resnet50").others))
    return {
        "run.json": msgspec.json.encode(record),
        "separable.json": msgspec.json.encode(_separable(whole)),
        "results.csv": to_csv(record.rows).encode(),
        "bench.json": msgspec.json.encode(to_pytest_benchmark(record)),
        "journal.jsonl": _journal(record),
        "gate.jsonl": _gate(record),
        "suite.toml": toml.encode(),
        "network.toml": to_toml(builtin("resnet50")).encode(),
        "train.json": json.dumps(trained).encode(),
        "checkpoint.pt": _checkpoint(),
        "profile.json": _profile(record),
    }


def _short(record: Record) -> Record:
    layers = list(dict.fromkeys(row.case for row in record.rows))[:2]
    return _with(record, [row for row in record.rows if row.case in layers][:6])


def _separable(record: Record) -> Record:
    """A dense layer and the separable pair in its place."""
    return _with(record, [row for row in record.rows if row.case.startswith("mobilenet_v1.block8")])


def _with(record: Record, rows: list[RecordedRow]) -> Record:
    fewer = [msgspec.structs.replace(r, samples_s=r.samples_s[:SAMPLES], rounds=r.rounds[:SAMPLES]) for r in rows]
    return msgspec.structs.replace(record, rows=fewer)


def _profile(record: Record) -> bytes:
    from convbench.profile import model
    from convbench.profile.export import document

    timed = [row for row in record.rows if row.median_s]
    rows = [
        msgspec.convert(
            msgspec.to_builtins(row) | {"calls": 1, "step_s": row.median_s, "share": 0.5, "intensity": 9.0,
                                        "isolated_s": row.median_s, "best_implementation": row.implementation},
            model.LayerRow,
        )
        for row in timed
    ]  # fmt: skip
    step = model.Step(
        model="resnet", device="cpu", passes="forward", threads=2, median_s=0.1, ci_low_s=0.09, ci_high_s=0.11,
        eager_s=0.1, samples=9, watched_s=0.1, distortion=1.0, convolutions_s=0.05, convolutions_share=0.5,
        operators=[model.OtherOperator(operator="relu", calls=1, step_s=0.01, share=0.1)],
    )  # fmt: skip
    advice = model.Advice(topic="kernels", text="swap them", layers=[rows[0].case], gain=1.1)
    found = model.Profile(
        run_id=record.run_id, machine=record.machine, started=record.started, environment=record.environment,
        convbench_version=record.convbench_version, settings={"threads": 2}, step=step, advice=[advice],
        variants=[model.Variant(name="kernels", speedup=1.1)], peaks=record.peaks, warnings=["busy"], rows=rows,
        isolated=timed[:1],
    )  # fmt: skip
    return msgspec.json.encode(document(found))


def _checkpoint() -> bytes:
    """Of two variants after a step and a look at the test images."""
    from convbench.train import data
    from convbench.train.session import CHECKPOINT, Session
    from convbench.train.settings import Settings, Variant

    settings = Settings(
        task="classify", data="digits", variants=tuple(Variant("classifier", form, "torch.aten") for form in FORMS),
        epochs=2, batch=64, loss="cross-entropy", optimizer="adam", learning_rate=0.01, momentum=0.9, weight_decay=0.0,
        schedule="onecycle", augment=("shift",), seed=0, threads=1, device="cpu", target=0.9, arguments={"width": 4},
    )  # fmt: skip
    session = Session(settings, data.load(settings.data, settings.task))
    session._step()
    session._evaluate()
    with tempfile.TemporaryDirectory() as folder:
        session.save(Path(folder))
        return (Path(folder) / CHECKPOINT).read_bytes()


def _journal(record: Record) -> bytes:
    from convbench.case import Case

    by_case: dict[Case, list] = {}
    for row in record.rows:
        case = Case(spec_of(row), row.pass_, row.dtype, row.device, row.suite, row.case, row.count)
        by_case.setdefault(case, []).append(row)
    head = Header(record=msgspec.structs.replace(record, rows=[]), cases=list(by_case), threads=1, seed=0,
                  implementations=[row.implementation for row in record.rows], policy=Policy())  # fmt: skip
    entries = [Entry(case=number, rows=rows) for number, rows in enumerate(by_case.values())]
    return msgspec.json.Encoder().encode_lines([head, *entries])


def _gate(record: Record) -> bytes:
    from convbench.case import Case

    row = record.rows[0]
    cell = Cell(suite=row.suite, case=row.case, pass_=row.pass_, dtype=row.dtype, device=row.device,
                implementation=row.implementation)  # fmt: skip
    timed = Timed(str(cell), Case(spec_of(row), suite=row.suite, name=row.case), row.implementation)
    head = GateHeader(base=CANARY, head=CANARY, names=("main", "HEAD"), rules=Rules(), cells=[cell], timed=[timed],
                      changes=[], threads=1, seed=0)  # fmt: skip
    times = {str(cell): row.samples_s[:3]}
    quartets = [Quartet(number=n, phase="screen", samples_s=dict.fromkeys(ARMS, times)) for n in range(4)]
    return msgspec.json.Encoder().encode_lines([head, *quartets])


# Mutations ------------------------------------------------------------------------------------------------


@st.composite
def mutated(draw: Any, kind: str, original: bytes) -> bytes:
    """The file with one to three things wrong with it, and now and then damaged bytes."""
    changes = {".csv": csv_changed, ".toml": toml_changed, ".jsonl": lines_changed, ".pt": checkpoint_changed}
    change = changes.get(Path(kind).suffix, json_changed)
    data = original
    for _ in range(draw(st.sampled_from((1, 1, 2, 3)))):
        data = draw(change(data)) if len(data) < 1_000_000 else data
    return draw(bytes_changed(data)) if draw(st.integers(0, 4)) == 0 else data


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value below node; of a list of numbers the first three."""
    if isinstance(node, dict):
        keys: list[Any] = list(node)
    elif isinstance(node, list):
        keys = list(range(len(node) if node and isinstance(node[0], dict) else min(3, len(node))))
    else:
        return
    for key in keys:
        yield node, key
        yield from places(node[key])


@st.composite
def json_changed(draw: Any, data: bytes) -> bytes:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return draw(bytes_changed(data))
    found = list(places(document)) or [([document], 0)]
    pick = st.integers(0, len(found) - 1)
    container, key = found[draw(pick)]
    token, what = (
        "",
        draw(st.sampled_from(("token", "token", "text", "text", "drop", "rename", "swap", "repeat", "large"))),
    )
    if what == "token":
        token, container[key] = draw(st.sampled_from(JSON_TOKENS)), "@token@"
    elif what == "text":
        container[key] = draw(texts)
    elif what == "drop":
        del container[key]
    elif what == "rename" and isinstance(container, dict):
        container[draw(texts)] = container.pop(key)
    elif what == "swap":
        other, place = found[draw(pick)]
        container[key] = json.loads(json.dumps(other[place]))
    elif what == "repeat" and isinstance(container, list):
        container[key:key] = container[key : key + 1] * draw(st.sampled_from((1, 3, 50)))
    elif what == "large" and draw(st.integers(0, 9)) == 0:
        container[key] = LARGE
    return json.dumps(document).replace('"@token@"', token).encode("utf-8", "surrogatepass")


@st.composite
def lines_changed(draw: Any, data: bytes) -> bytes:
    """One of the file's JSON lines changed, dropped, repeated or put elsewhere."""
    lines = data.splitlines()
    if not lines:
        return data
    number = draw(st.integers(0, len(lines) - 1))
    what = draw(st.sampled_from(("change",) * 6 + ("drop", "repeat", "move")))
    if what == "change":
        lines[number] = draw(json_changed(lines[number]))
    else:
        line = lines.pop(number)
        for _ in range({"drop": 0, "move": 1, "repeat": 2}[what]):
            lines.insert(draw(st.integers(0, len(lines))), line)
    return b"\n".join(lines) + b"\n"


@st.composite
def checkpoint_changed(draw: Any, data: bytes) -> bytes:
    """What is plain data in it changed, the tensors left."""
    import torch

    try:
        state = torch.load(io.BytesIO(data), weights_only=True)
        plain = {name: state[name] for name in ("schema_version", "settings", "done", "histories")}
        state |= json.loads(draw(json_changed(json.dumps(plain).encode())))
    except Exception:  # damaged before, or no JSON
        return draw(bytes_changed(data))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@st.composite
def csv_changed(draw: Any, data: bytes) -> bytes:
    try:
        rows = [row for row in csv.reader(io.StringIO(data.decode("utf-8", "replace"), newline="")) if row]
        row = rows[draw(st.integers(0, max(len(rows) - 1, 0)))]
    except (csv.Error, IndexError):
        return draw(bytes_changed(data))
    column = draw(st.integers(0, len(row) - 1))
    what = draw(st.sampled_from(("cell", "cell", "cell", "text", "drop", "column", "repeat", "header")))
    if what == "cell":
        row[column] = draw(st.sampled_from(CSV_CELLS))
    elif what == "text":
        row[column] = draw(texts)
    elif what == "drop":
        del row[column]
    elif what == "column":
        rows = [[cell for place, cell in enumerate(each) if place != column] for each in rows]
    else:
        rows += [list(rows[0] if what == "header" else row)] * draw(st.sampled_from((1, 200)))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


@st.composite
def toml_changed(draw: Any, data: bytes) -> bytes:
    lines = data.decode("utf-8", "replace").splitlines() or [""]
    number = draw(st.integers(0, len(lines) - 1))
    what = draw(st.sampled_from(("value", "value", "value", "text", "drop", "repeat", "key", "line")))
    key, equals, _ = lines[number].partition(" = ")
    if what in ("value", "text") and equals:
        value = draw(st.sampled_from(TOML_TOKENS)) if what == "value" else json.dumps(draw(texts))
        lines[number] = f"{key} = {value}"
    elif what == "drop":
        del lines[number]
    elif what == "repeat":
        lines[number:number] = lines[number : number + 12] * draw(st.sampled_from((1, 100)))
    elif what == "key" and equals:
        lines[number] = f"{json.dumps(draw(texts))} = 1"
    else:
        lines.insert(number, draw(st.sampled_from(TOML_LINES)))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


@st.composite
def bytes_changed(draw: Any, data: bytes) -> bytes:
    """Cut, overwritten, repeated, or in another encoding."""
    at = draw(st.integers(0, len(data)))
    more = draw(st.binary(min_size=1, max_size=8))
    made: dict[str, Callable[[], bytes]] = {
        "cut": lambda: data[:at],
        "over": lambda: data[:at] + more + data[at + len(more) :],
        "in": lambda: data[:at] + more + data[at:],
        "twice": lambda: data + data,
        "utf-16": lambda: data.decode("utf-8", "replace").encode("utf-16"),
        "mark": lambda: b"\xef\xbb\xbf" + data,
        "crlf": lambda: re.sub(rb"\n", b"\r\n", data),
        "empty": lambda: b"",
    }
    return made[draw(st.sampled_from(sorted(made)))]()
