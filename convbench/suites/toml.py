"""Suite files: TOML to Suite with every mistake named, and back.

A ``[[case]]`` is a layer (the keys of ConvSpec.create, and count). Two optional keys only serve the
receptive field: ``pool`` = [kernel, stride] of a pooling after the layer, and ``main_path = false`` for a
parallel branch. ``[[other]]`` entries (name, macs, params, count) are the rest of a network.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from typing import Annotated, Any, get_args

import msgspec
from msgspec import Meta, Struct

from convbench.errors import InputError
from convbench.spec import LARGEST_TENSOR_ELEMENTS, PASSES, ConvSpec, Operator, Pair
from convbench.suites.model import LARGEST_TOTAL, Layer, Other, Suite

LARGEST_SUITE_BYTES = 4 * 2**20
MOST_LAYERS = 10_000  # a line each in every table
_Name = Annotated[str, Meta(min_length=1)]
_Positive = Annotated[int, Meta(ge=1)]
_Size = int | list[int]


class _Head(Struct, forbid_unknown_fields=True):
    name: _Name
    description: str = ""
    network: bool = False


class _Case(Struct, forbid_unknown_fields=True, omit_defaults=True):
    name: _Name
    input: list[int]
    out_channels: _Positive
    kernel: _Size
    operator: Operator = "conv2d"
    stride: _Size = 1
    padding: _Size = 0
    dilation: _Size = 1
    groups: _Positive = 1
    output_padding: _Size = 0
    bias: bool = False
    count: _Positive = 1
    pool: Annotated[list[Annotated[int, Meta(ge=1, le=LARGEST_TENSOR_ELEMENTS)]], Meta(max_length=2)] = []
    main_path: bool = True


class _File(Struct, forbid_unknown_fields=True):
    suite: _Head
    case: list[_Case]
    other: list[Other] = []


def parse(data: bytes, source: str) -> Suite:
    """A suite from the bytes of a TOML file; ``source`` is what errors call it.

    Raises InputError: with line and column where the TOML is malformed, otherwise with the case and key.
    """
    try:
        return _suite(_convert(_document(data)))
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _document(data: bytes) -> dict[str, Any]:
    if len(data) > LARGEST_SUITE_BYTES:
        raise InputError(f"larger than {LARGEST_SUITE_BYTES >> 20} MiB; a suite lists layers, split it")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"line {line}: not UTF-8 text; a suite is a TOML file saved as UTF-8") from None
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: numbers of 10,000 digits
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).split(";")[0]
        reason = reason.replace("at end of document", f"at the end, line {len(data.splitlines())}")
        raise InputError(f"not valid TOML: {reason}") from None


def _convert(document: dict[str, Any]) -> _File:
    try:
        return msgspec.convert(document, _File)
    except msgspec.ValidationError as error:
        raise InputError(_explain(str(error), document)) from None


_TOML_WORDS = {"Object missing": "missing", "Object contains": "has the", "`object`": "a table", "field": "key",
               "array": "list"}  # fmt: skip  # for msgspec's


def _explain(message: str, document: dict[str, Any]) -> str:
    """msgspec's message in TOML's words, with the table's name for its index, and a suggestion for a misspelt key."""
    text, _, place = message.partition(" - at `")
    for word, ours in _TOML_WORDS.items():
        text = text.replace(word, ours)
    path = place.removeprefix("key in ").strip("`$.")
    known: tuple[str, ...] = _File.__struct_fields__
    if entry := re.match(r"(case|other)\[(\d+)\]\.?(\w*)", path):
        kind, number, key = entry[1], int(entry[2]), entry[3]
        table = document[kind][number] if isinstance(document[kind][number], dict) else {}
        path = f"[[{kind}]] {table.get('name', number + 1)!r}"
        path += f", {key} = {_short(table[key])}" if key in table else ""
        known = (_Case if kind == "case" else Other).__struct_fields__
    elif path.startswith("suite"):
        path, known = f"[suite] {path[6:]}".strip(), _Head.__struct_fields__
    if text.startswith("Invalid enum value"):
        text = f"expected one of {', '.join(get_args(Operator))}"
    elif not path and text.startswith("missing"):
        text += "; a suite file is one [suite] table with a name, and one [[case]] table a layer"
    elif unknown := re.search(r"unknown key `([^`]*)`", text):
        close = difflib.get_close_matches(unknown[1], known, n=1)
        text += f"; did you mean `{close[0]}`?" if close else f"; known: {', '.join(known)}"
    return f"{path}: {text}" if path else text


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _suite(file: _File) -> Suite:
    if not file.case:
        raise InputError("no [[case]]; a suite needs at least one layer")
    if len(file.case) > MOST_LAYERS:
        raise InputError(f"{len(file.case):,} layers, more than {MOST_LAYERS:,}; split it into several")
    _check_names(file)
    head = file.suite
    layers = tuple(_layer(case, head.network) for case in file.case)
    suite = Suite(head.name, " ".join(head.description.split()), layers, tuple(file.other), head.network)
    if max(suite.network_params(), *map(suite.network_macs, PASSES)) > LARGEST_TOTAL:
        raise InputError(f"more than {LARGEST_TOTAL:.0e} multiply-accumulates or parameters; check the sizes")
    suite.receptive_field()  # refuses one beyond every image
    return suite


def _check_names(file: _File) -> None:
    for kind, tables in (("case", file.case), ("other", file.other)):
        seen: set[str] = set()
        for table in tables:
            if table.name in seen:
                raise InputError(f"[[{kind}]] {table.name!r} appears twice; give each a name of its own")
            seen.add(table.name)


def _layer(case: _Case, network: bool) -> Layer:
    words = {name: getattr(case, name) for name in case.__struct_fields__}
    name, count, pool, main_path = (words.pop(key) for key in ("name", "count", "pool", "main_path"))
    try:
        if len(pool) == 1:
            raise InputError(f"pool = {pool}: expected [kernel, stride]")
        layer = Layer(name, ConvSpec.create(**words), count, tuple(pool), main_path)
        if network and main_path and count > 1 and layer.spec.stride != (1, 1):
            raise InputError(f"count = {count}: a strided layer cannot follow itself; set main_path = false")
        return layer
    except InputError as error:
        raise InputError(f"[[case]] {name!r}: {error}") from None


# Writing ----------------------------------------------------------------------------------------


def to_toml(suite: Suite) -> str:
    """The suite as a file that parse() reads back to an equal one; defaults are left out."""
    head = {"name": suite.name, "description": suite.description} | ({"network": True} if suite.network else {})
    tables = [("[suite]", head)]
    tables += [("[[case]]", msgspec.to_builtins(_case(layer))) for layer in suite.layers]
    tables += [("[[other]]", msgspec.to_builtins(other)) for other in suite.others]
    return "\n".join(_table(header, values) for header, values in tables)


def _case(layer: Layer) -> _Case:
    spec = layer.spec
    return _Case(
        layer.name, list(spec.x_shape), spec.k, _scalar((spec.r, spec.s)), spec.operator, _scalar(spec.stride),
        _scalar(spec.padding), _scalar(spec.dilation), spec.groups, _scalar(spec.output_padding), spec.bias,
        layer.count, list(layer.pool), layer.main_path,
    )  # fmt: skip


def _scalar(values: Pair) -> int | list[int]:
    return values[0] if values[0] == values[1] else list(values)


def _table(header: str, values: dict[str, Any]) -> str:
    return "\n".join([header, *(f"{name} = {_value(value)}" for name, value in values.items()), ""])


def _value(value: Any) -> str:
    """JSON's texts, integers, lists and booleans are TOML's, but for the DEL character."""
    text = msgspec.json.encode(value).decode()
    return text.replace(",", ", ") if isinstance(value, list) else text.replace("\x7f", "\\u007f")
