"""Suite files: TOML to Suite with every mistake named, and back."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from convbench.errors import InputError
from convbench.receptive_field import Window
from convbench.spec import PASSES, ConvSpec, Pair
from convbench.suites.model import Layer, Other, Suite

LARGEST_FILE_BYTES = 16 * 2**20  # the whole of EfficientNet takes 10 KB
_REQUIRED = object()
LARGEST_COUNT = 2**62  # what JSON readers still hold exactly as an integer; and nobody runs


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _list_of(value: Any, kind: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(kind, value))


@dataclass(frozen=True)
class _Type:
    """What a key takes, in words and as a test."""

    expected: str
    fits: Callable[[Any], bool]


_TEXT = _Type("a text in quotes", lambda v: isinstance(v, str) and v != "")
_FLAG = _Type("true or false", lambda v: isinstance(v, bool))
_WHOLE = _Type("an integer of at least 0", lambda v: _whole(v) and v >= 0)
_POSITIVE = _Type("an integer of at least 1", lambda v: _whole(v) and v >= 1)
_PAIR = _Type("an integer or a pair of integers", lambda v: _whole(v) or (_list_of(v, _whole) and len(v) == 2))
_SHAPE = _Type("four integers [N, C, H, W]", lambda v: _list_of(v, _whole) and len(v) == 4)
_TABLE = _Type("a table", lambda v: isinstance(v, dict))
_TABLES = _Type("tables in double brackets", lambda v: _list_of(v, _TABLE.fits))


@dataclass(frozen=True)
class _Key:
    """A key of a table and its default; without one it must be given."""

    type: _Type
    default: Any = _REQUIRED


_TOP = {
    "suite": _Key(_TABLE, {}),
    "case": _Key(_TABLES),
    "other": _Key(_TABLES, []),
}
_SUITE = {
    "name": _Key(_TEXT, ""),
    "description": _Key(_TEXT, ""),
    "sequential": _Key(_FLAG, False),
}
_CASE = {
    "name": _Key(_TEXT),
    "operator": _Key(_TEXT, "conv2d"),
    "input": _Key(_SHAPE),
    "out_channels": _Key(_POSITIVE),
    "kernel": _Key(_PAIR),
    "stride": _Key(_PAIR, 1),
    "padding": _Key(_PAIR, 0),
    "dilation": _Key(_PAIR, 1),
    "groups": _Key(_POSITIVE, 1),
    "output_padding": _Key(_PAIR, 0),
    "bias": _Key(_FLAG, False),
    "count": _Key(_POSITIVE, 1),
    "branch": _Key(_FLAG, False),
}
_OTHER = {
    "name": _Key(_TEXT),
    "macs": _Key(_WHOLE, 0),
    "params": _Key(_WHOLE, 0),
    "count": _Key(_POSITIVE, 1),
    "kernel": _Key(_PAIR, None),
    "stride": _Key(_PAIR, 1),
    "dilation": _Key(_PAIR, 1),
    "after": _Key(_TEXT, ""),
}


def parse(data: bytes, source: str, default_name: str = "") -> Suite:
    """A suite from the bytes of a TOML file; ``source`` names it in errors.

    Raises InputError: with line and column where the TOML is malformed, otherwise with the table and key.
    """
    try:
        return _suite(_document(data), default_name)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _document(data: bytes) -> dict[str, Any]:
    if len(data) > LARGEST_FILE_BYTES:
        raise InputError(f"larger than {LARGEST_FILE_BYTES >> 20} MiB, not a suite; split it")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not valid TOML: {error}; a suite is [suite] and [[case]] tables") from None
    except (ValueError, RecursionError) as error:  # a number of 10,000 digits, brackets 1,000 deep
        reason = str(error).split(";")[0] or "nested too deeply"
        raise InputError(f"not valid TOML: {reason}; a suite is [suite] and [[case]] tables") from None


def _suite(document: dict[str, Any], default_name: str) -> Suite:
    top = _values(document, _TOP, "")
    head = _values(top["suite"], _SUITE, "[suite] ")
    layers = tuple(_layer(table, where) for where, table in _named(top["case"], "case"))
    others = tuple(_other(table, where) for where, table in _named(top["other"], "other"))
    if not layers:
        raise InputError("no [[case]]: a suite needs at least one")
    suite = Suite(head["name"] or default_name, layers, head["description"], others, head["sequential"])
    _check_path(suite)
    if any(max(suite.network_totals(p).macs, suite.network_totals(p).params) > LARGEST_COUNT for p in PASSES):
        raise InputError(f"more than {LARGEST_COUNT:.0e} multiply-accumulates or parameters in all; check the sizes")
    return suite


def _named(tables: list[dict[str, Any]], kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each table with its place in words; names are unique within a kind."""
    seen: set[str] = set()
    for number, table in enumerate(tables, 1):
        name = table.get("name")
        where = f"[[{kind}]] number {number}" + (f" ({name!r})" if isinstance(name, str) else "")
        if isinstance(name, str) and name in seen:
            raise InputError(f"{where}: the name is taken by an earlier [[{kind}]]; give each its own")
        seen.add(str(name))
        yield f"{where}: ", table


def _layer(table: dict[str, Any], where: str) -> Layer:
    words = _values(table, _CASE, where)
    name, layer_count, branch = words.pop("name"), words.pop("count"), words.pop("branch")
    try:
        return Layer(name, ConvSpec.create(**words), layer_count, branch)
    except InputError as error:
        raise InputError(f"{where}{error}") from None


def _other(table: dict[str, Any], where: str) -> Other:
    words = _values(table, _OTHER, where)
    kernel, stride, dilation = words.pop("kernel"), words.pop("stride"), words.pop("dilation")
    window = None
    if kernel is not None:
        window = Window.create(kernel, stride, dilation, words["count"])
        if min(*window.kernel, *window.stride, *window.dilation) < 1:
            raise InputError(f"{where}kernel, stride and dilation: expected integers of at least 1")
        if not words["after"]:
            raise InputError(f'{where}a layer with a kernel needs after = "name of the [[case]] before it"')
    return Other(window=window, **words)


def _check_path(suite: Suite) -> None:
    """What a sequence of layers cannot be, and pooling layers that come after nothing."""
    names = [layer.name for layer in suite.layers if not layer.branch]
    for other in suite.others:
        if other.after and other.after not in names:
            raise InputError(
                f"[[other]] {other.name!r}: after = {other.after!r}: no [[case]] on the main path has that name"
                + _did_you_mean(other.after, names)
            )
    for layer in suite.layers if suite.sequential else ():
        if layer.branch:
            continue
        if layer.spec.is_transposed:
            raise InputError(
                f"[[case]] {layer.name!r}: a network with conv_transpose2d has no single receptive field; "
                "leave sequential out"
            )
        if layer.count > 1 and layer.spec.stride != (1, 1):
            raise InputError(
                f"[[case]] {layer.name!r}: a layer with a stride cannot follow itself in a sequential network; "
                "set branch = true or count = 1"
            )


# Values -----------------------------------------------------------------------------------------


def _values(table: dict[str, Any], keys: dict[str, _Key], where: str) -> dict[str, Any]:
    """Every key's value or default; unknown, missing and mistyped ones raise InputError."""
    for name, value in table.items():
        if name not in keys:
            raise InputError(f"{where}unknown key {name!r}{_did_you_mean(name, keys)}; known: {', '.join(keys)}")
        if not keys[name].type.fits(value):
            raise InputError(f"{where}{name} = {_short(value)}: expected {keys[name].type.expected}")
    missing = [name for name, key in keys.items() if key.default is _REQUIRED and name not in table]
    if missing:
        raise InputError(f"{where}{missing[0]} is missing: expected {keys[missing[0]].type.expected}")
    return {name: table.get(name, key.default) for name, key in keys.items()}


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


# Writing ----------------------------------------------------------------------------------------


def to_toml(suite: Suite) -> str:
    """The suite as a file that parse() reads back to an equal one; defaults are left out."""
    tables = [("[suite]", _SUITE, _fields(suite))]
    for layer in suite.layers:
        tables.append(("[[case]]", _CASE, _case_fields(layer)))
        tables += [("[[other]]", _OTHER, _other_fields(o)) for o in suite.others if o.after == layer.name]
    tables += [("[[other]]", _OTHER, _other_fields(o)) for o in suite.others if not o.after]
    return "\n".join(_table(*table) for table in tables)


def _fields(suite: Suite) -> dict[str, Any]:
    return {"name": suite.name, "description": suite.description, "sequential": suite.sequential}


def _case_fields(layer: Layer) -> dict[str, Any]:
    spec = layer.spec
    pairs = {name: _scalar(getattr(spec, name)) for name in ("stride", "padding", "dilation", "output_padding")}
    return {
        "name": layer.name, "operator": spec.operator, "input": list(spec.x_shape), "out_channels": spec.k,
        "kernel": _scalar((spec.r, spec.s)), **pairs, "groups": spec.groups, "bias": spec.bias,
        "count": layer.count, "branch": layer.branch,
    }  # fmt: skip


def _other_fields(other: Other) -> dict[str, Any]:
    fields = {name: getattr(other, name) for name in ("name", "macs", "params", "count", "after")}
    for name in ("kernel", "stride", "dilation") if other.window else ():
        fields[name] = _scalar(getattr(other.window, name))
    return fields


def _scalar(values: Pair) -> int | list[int]:
    return values[0] if values[0] == values[1] else list(values)


def _table(header: str, keys: dict[str, _Key], fields: dict[str, Any]) -> str:
    lines = [
        f"{name} = {_toml_value(fields[name])}"
        for name, key in keys.items()
        if name in fields and fields[name] != key.default
    ]
    return "\n".join([header, *lines, ""])


def _toml_value(value: Any) -> str:
    """JSON's texts, integers, lists and booleans are TOML's, but for the DEL character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
