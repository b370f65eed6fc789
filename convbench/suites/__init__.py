"""Suites: layers of published networks, one TOML file each, and the user's own files in the same form.

A ``[[case]]`` is a layer (keys as in ConvSpec.create, and count). Two optional keys only serve the receptive
field: ``pool`` = [kernel, stride] of a pooling after the layer, ``main_path = false`` for a parallel branch.
``[[other]]`` entries (name, macs, params, count) are the rest of the network (batch norm, fully connected
layers): counted in totals, never run. A suite with ``network = true`` is one whole network in order.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from convbench.errors import InputError
from convbench.spec import ConvSpec, Operator

FOLDER = Path(__file__).parent
LARGEST_SUITE_BYTES = 4 * 2**20
_Size = int | list[int]


class Other(Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a network that is no convolution."""

    name: str
    macs: int = 0
    params: int = 0
    count: int = 1


class _Head(Struct, forbid_unknown_fields=True):
    name: str
    description: str = ""
    network: bool = False


class _Case(Struct, forbid_unknown_fields=True):
    name: str
    input: list[int]
    out_channels: int
    kernel: _Size
    operator: Operator = "conv2d"
    stride: _Size = 1
    padding: _Size = 0
    dilation: _Size = 1
    groups: int = 1
    output_padding: _Size = 0
    bias: bool = False
    count: int = 1
    pool: list[int] = []
    main_path: bool = True


class _File(Struct, forbid_unknown_fields=True):
    suite: _Head
    case: list[_Case]
    other: list[Other] = []


@dataclass(frozen=True)
class Layer:
    """One layer, how often the network has it, and its place on the path of the receptive field."""

    name: str
    spec: ConvSpec
    count: int = 1
    pool: tuple[int, ...] = ()
    main_path: bool = True


@dataclass(frozen=True)
class Suite:
    """A named list of layers, and what else the network consists of."""

    name: str
    description: str
    layers: tuple[Layer, ...]
    others: tuple[Other, ...] = ()
    network: bool = False


def names() -> list[str]:
    """Built-in suites, the default one first."""
    found = sorted(path.stem for path in FOLDER.glob("*.toml"))
    return sorted(found, key=lambda name: (name not in ("default", "quick"), name))


def resolve(text: str) -> Suite:
    """A suite by built-in name or by the path of a TOML file. Raises InputError with the way out."""
    if text in names():
        return load(FOLDER / f"{text}.toml")
    if text.endswith(".toml") or "/" in text:
        return load(Path(text))
    close = difflib.get_close_matches(text, names(), n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise InputError(f"suite {text!r} is unknown; {hint}it is one of {', '.join(names())}, or a file ending in .toml")


def load(path: Path) -> Suite:
    """Read a suite file. Raises InputError naming the file, and the line or the case and key."""
    return parse(_read(path), str(path))


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_SUITE_BYTES:
            raise InputError(f"{path}: larger than {LARGEST_SUITE_BYTES >> 20} MiB; a suite lists layers, split it")
        return path.read_bytes().decode()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a suite's name or a readable TOML file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; a suite is a TOML file") from None


def parse(text: str, source: str) -> Suite:
    """A suite from TOML text; ``source`` is what errors call it."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{source}: not valid TOML: {error}") from None
    except RecursionError:
        raise InputError(f"{source}: nested too deeply for a suite") from None
    try:
        file = msgspec.convert(data, _File)
    except msgspec.ValidationError as error:
        raise InputError(f"{source}: {_explain(str(error), data)}") from None
    _check_names(file, source)
    layers = tuple(_layer(case, source) for case in file.case)
    return Suite(file.suite.name, " ".join(file.suite.description.split()), layers, tuple(file.other), file.suite.network)


def _explain(message: str, data: dict[str, Any]) -> str:
    """msgspec's message with the case's name for its index, and a suggestion for a misspelt key."""
    place = re.search(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`", message)
    text = message[: place.start()] if place else message
    path = place["path"] if place else ""
    if index := re.match(r"case\[(\d+)\]\.?(.*)", path):
        name = data["case"][int(index[1])].get("name", f"number {int(index[1]) + 1}")
        path = f"case {name!r}" + (f", {index[2]}" if index[2] else "")
    if unknown := re.search(r"unknown field `([^`]*)`", text):
        close = difflib.get_close_matches(unknown[1], [*_Case.__struct_fields__, *_Head.__struct_fields__], n=1)
        text += f"; did you mean `{close[0]}`?" if close else ""
    return f"{path}: {text}" if path else text


def _check_names(file: _File, source: str) -> None:
    if not file.case:
        raise InputError(f"{source}: no [[case]]; a suite needs at least one layer")
    seen: set[str] = set()
    for case in file.case:
        if case.name in seen:
            raise InputError(f"{source}: case {case.name!r} appears twice; give each layer a name of its own")
        seen.add(case.name)
        if case.count < 1:
            raise InputError(f"{source}: case {case.name!r}: count = {case.count}: expected at least 1")


def _layer(case: _Case, source: str) -> Layer:
    words = {name: getattr(case, name) for name in case.__struct_fields__}
    name, count, pool, main_path = (words.pop(key) for key in ("name", "count", "pool", "main_path"))
    if pool and len(pool) != 2:
        raise InputError(f"{source}: case {name!r}: pool = {pool}: expected [kernel, stride]")
    try:
        return Layer(name, ConvSpec.create(**words), count, tuple(pool), main_path)
    except InputError as error:
        raise InputError(f"{source}: case {name!r}: {error}") from None


def to_toml(suite: Suite) -> str:
    """The suite as a file that parse reads back; values at their default are left out."""
    lines = ["[suite]", f"name = {_quoted(suite.name)}", f"description = {_quoted(suite.description)}"]
    lines += ["network = true"] * suite.network
    for layer in suite.layers:
        lines += ["", "[[case]]", f"name = {_quoted(layer.name)}", *_layer_lines(layer)]
    for other in suite.others:
        lines += ["", "[[other]]", f"name = {_quoted(other.name)}"]
        lines += [f"{key} = {getattr(other, key)}" for key in ("macs", "params") if getattr(other, key)]
        lines += [f"count = {other.count}"] * (other.count > 1)
    return "\n".join(lines) + "\n"


def _layer_lines(layer: Layer) -> list[str]:
    spec = layer.spec
    values: dict[str, Any] = {
        "operator": _quoted(spec.operator), "input": list(spec.x_shape), "out_channels": spec.k,
        "kernel": _scalar((spec.r, spec.s)), "stride": _scalar(spec.stride), "padding": _scalar(spec.padding),
        "dilation": _scalar(spec.dilation), "groups": spec.groups, "output_padding": _scalar(spec.output_padding),
        "bias": str(spec.bias).lower(), "count": layer.count, "pool": list(layer.pool),
        "main_path": str(layer.main_path).lower(),
    }  # fmt: skip
    defaults = {"operator": '"conv2d"', "stride": 1, "padding": 0, "dilation": 1, "groups": 1, "output_padding": 0,
                "bias": "false", "count": 1, "pool": [], "main_path": "true"}  # fmt: skip
    return [f"{key} = {value}" for key, value in values.items() if defaults.get(key) != value]


def _scalar(pair: tuple[int, int]) -> int | list[int]:
    return pair[0] if pair[0] == pair[1] else list(pair)


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's, but for DEL."""
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")
