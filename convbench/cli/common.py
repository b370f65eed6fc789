"""What the commands share: selection options, one JSON document, tables, consoles.

Data goes to stdout, progress and messages to stderr.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, get_args

import click

from convbench import untrusted
from convbench.case import DType
from convbench.errors import InputError
from convbench.plan import PASS_GROUPS, Selection
from convbench.spec import LARGEST_TENSOR_ELEMENTS
from convbench.suites import ModelSource, resolve, to_toml

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from convbench.plugin import Implementation


DEFAULT_SUITE = "default"
_STDOUT = "convbench.stdout"


def examples(*lines: str) -> str:
    """A --help epilog of command lines to paste, one a line."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))


class Seed(click.ParamType):
    """A seed that torch and the journal can hold."""

    name = "n"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            seed = int(str(value))
        except ValueError:
            seed = -1
        if not 0 <= seed < 2**63:
            self.fail(f"{value} is no seed; write a whole number from 0 to 2^63 - 1", param, ctx)
        return seed


class Shape(click.ParamType):
    """Sizes such as 1,3,224,224 (or 1x3x224x224)."""

    name = "n,c,h,w"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        parts = str(value).replace("x", ",").split(",")
        if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"{value} is no shape; write sizes such as 1,3,224,224", param, ctx)
        sizes = tuple(map(int, parts))
        if prod(sizes) > LARGEST_TENSOR_ELEMENTS:
            self.fail(f"{value} has more than 2^40 elements; check the sizes", param, ctx)
        return sizes


DTYPES = click.Choice(get_args(DType))
input_option = click.option("--input", "inputs", multiple=True, type=Shape(),
                            help="Shape of the model's input; one for each.")  # fmt: skip
_SELECTORS = (
    click.option("--pass", "pass_", multiple=True, type=click.Choice(tuple(PASS_GROUPS)), help="Pass to compute."),
    click.option("--dtype", multiple=True, type=DTYPES, help="Element type."),
    click.option("--device", multiple=True, metavar="DEVICE", help="cpu, cuda, cuda:1, ..."),
    click.option("--impl", multiple=True, metavar="NAME", help="Implementation (numba.direct) or family (numba)."),
    click.option("--case", multiple=True, metavar="GLOB", help="Only layers whose name matches."),
    click.option("--suite", multiple=True, metavar="NAME|FILE.toml", help="Suite by name or file."),
)
_MODELS = (
    input_option,
    click.option("--model", multiple=True, metavar="SPEC",
                 help="Layers of a model: built in, FILE.py:FACTORY or MODULE:FACTORY. Runs its code."),
)  # fmt: skip
_SUITE_ARGUMENTS = click.argument("suite_arguments", nargs=-1, metavar="[SUITE]...")


def selection_options(function: Callable) -> Callable:
    """--suite, --model, --case, --impl, --device, --dtype, --pass (all repeatable), given as one ``selection``."""
    return _selecting(function, (*_SELECTORS[:-1], *_MODELS, _SELECTORS[-1], _SUITE_ARGUMENTS))


def record_selection_options(function: Callable) -> Callable:
    """The same options for a command whose arguments are records, not suites."""
    return _selecting(function, _SELECTORS)


def _selecting(function: Callable, decorators: Sequence[Callable]) -> Callable:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        inputs, models = kwargs.pop("inputs", ()), kwargs.pop("model", ())
        if inputs and not models:
            raise click.UsageError("--input is the shape of a model's input; name the model with --model")
        selection = Selection(
            suites=(
                *kwargs.pop("suite_arguments", ()),
                *kwargs.pop("suite"),
                *(ModelSource(m, inputs) for m in models),
            ),
            cases=kwargs.pop("case"),
            implementations=kwargs.pop("impl"),
            devices=kwargs.pop("device"),
            dtypes=kwargs.pop("dtype"),
            passes=kwargs.pop("pass_"),
        )
        return function(*args, selection=selection, **kwargs)

    wrapper.__name__, wrapper.__doc__ = function.__name__, function.__doc__
    wrapper.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    for decorate in decorators:
        wrapper = decorate(wrapper)
    return wrapper


isolate_option = click.option(
    "--isolate/--no-isolate", default=None,
    help="Run cases in a worker process that may crash (default: those that a third party's kernel computes).",
)  # fmt: skip


def isolated(isolate: bool | None, implementations: Iterable[Implementation]) -> frozenset[str]:
    """The implementations whose cases run in a worker: by default those of other distributions than convbench."""
    from convbench.registry import registry

    strangers = registry().strangers
    return frozenset(i.name for i in implementations if (i.family in strangers if isolate is None else isolate))


save_suite_option = click.option(
    "--save-suite", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.toml",
    help="Keep the layers of the one --suite or --model as a suite file.",
)  # fmt: skip


def save_suite(selection: Selection, path: Path | None) -> None:
    """Write what --save-suite asks for. Raises InputError when it is not one suite, or the file exists."""
    if path is None:
        return
    if len(selection.suites) != 1 or path.suffix != ".toml":
        raise InputError(f"--save-suite {path}: keeps one --model or --suite in a file whose name ends in .toml")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(to_toml(resolve(selection.suites[0])))
    except FileExistsError:
        raise InputError(f"--save-suite {path}: exists already; give a new name or remove it") from None
    err().print(f"suite saved: {path}", style="dim")


def _keep_stdout(context: click.Context, parameter: click.Parameter, value: bool) -> bool:
    """With --json whatever else prints, a plug-in or its C code for instance, prints on stderr."""
    if value:
        context.meta[_STDOUT] = context.with_resource(_own_stdout())
        context.with_resource(redirect_stdout(sys.stderr))
    return value


@contextmanager
def _own_stdout() -> Iterator[TextIO]:
    """stdout for the document alone: descriptor 1, which C prints to, is stderr for the rest of the process."""
    try:
        is_descriptor = sys.stdout.fileno() == 1
    except (AttributeError, OSError):  # replaced by something without a file, as tests do, or closed
        is_descriptor = False
    if not is_descriptor:
        yield sys.stdout
        return
    sys.stdout.flush()
    with open(os.dup(1), "w", encoding=sys.stdout.encoding) as own:
        os.dup2(2, 1)
        yield own


json_option = click.option("--json", "as_json", is_flag=True, callback=_keep_stdout,
                           help="Print one JSON document on stdout, nothing else.")  # fmt: skip


def emit_json(command: str, rows: Sequence[Any], **more: Any) -> None:
    """The one document of a --json command: schema_version, command, rows, and what else it has."""
    import msgspec

    from convbench.results import SCHEMA_VERSION

    document = {"schema_version": SCHEMA_VERSION, "command": command, "rows": list(rows), **more}
    text = msgspec.json.format(msgspec.json.encode(document), indent=1).decode()
    click.echo(untrusted.escaped(text), file=click.get_current_context().meta[_STDOUT])


class Fraction(click.ParamType):
    """A share such as 1% or 0.01."""

    name = "fraction"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        try:
            fraction = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            self.fail(f"{text!r} is not a fraction; write 1% or 0.01", param, ctx)
        if not 0 < fraction < 1:
            self.fail(f"{text} is out of range; write one between 0% and 100%, such as 1%", param, ctx)
        return fraction


def refuse_options(folder: Path, *allowed: str) -> None:
    """A resumed run goes on as it began; an option that would change it is not silently ignored."""
    context = click.get_current_context()
    given = [
        parameter.opts[0] if isinstance(parameter, click.Option) else "SUITE"
        for parameter in context.command.params
        if parameter.name and parameter.name not in ("resume", "as_json", *allowed)
        and context.get_parameter_source(parameter.name) is click.core.ParameterSource.COMMANDLINE
    ]  # fmt: skip
    if given:
        raise InputError(
            f"--resume {folder}: goes on as the run began; leave out {', '.join(given)}, or start a new run"
        )


@cache
def out() -> Console:
    """Console for data; as wide as needed when it is not a terminal, so that nothing is cut."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200, highlight=False, emoji=False, markup=False)


@cache
def err() -> Console:
    """Console for progress and messages."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, emoji=False, markup=False, soft_wrap=True)


def table(
    title: str,
    columns: Iterable[str | tuple[str, str]],
    rows: Sequence[Sequence[Any]],
    note: str = "",
    spare: Sequence[str] = (),
) -> None:
    """Print a table on stdout. A column is a heading, or (heading, "left") for text; numbers go right.

    spare: headings of columns to leave out, in this order and saying so, while a terminal is too narrow.
    """
    from rich.measure import Measurement

    unbounded = out().options.update(max_width=100_000)
    kept = [(column, "right") if isinstance(column, str) else column for column in columns]
    spare = [heading for heading in spare if any(heading == name for name, _ in kept)]
    places, gone = list(range(len(kept))), 0
    while True:
        view = _view([kept[i] for i in places], [[row[i] for i in places] for row in rows])
        if gone == len(spare) or Measurement.get(out(), unbounded, view).maximum <= out().width:
            break
        places = [i for i in places if kept[i][0] != spare[gone]]
        gone += 1
    out().print(printable(title), style="bold")
    out().print(view)
    narrow = f"left out on a narrow terminal: {', '.join(spare[:gone])}" if gone else ""
    for line in filter(None, (note, narrow)):
        out().print(printable(line), style="dim")


def _view(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[Any]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    view = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for place, (heading, side) in enumerate(columns):
        view.add_column(Text(_cell(heading)), justify=side, overflow="fold", no_wrap=place == 0)  # type: ignore[arg-type]
    for row in rows:
        view.add_row(*(Text(_cell(value)) for value in row))
    return view


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """For commands that load many records, which hold no cycles: collecting would walk them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def interrupts(noted: int = 0) -> Iterator[list[int]]:
    """An interrupt or a termination raises KeyboardInterrupt, and is in this list: Python drops an exception that a
    signal raises inside a finaliser.

    noted  how many first go into the list and raise nothing
    """
    signals: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        signals.append(number)
        if len(signals) > noted:
            raise KeyboardInterrupt

    earlier = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _cell(value: Any) -> str:
    """Text of a table's cell: cut as on a page, for folding long text, emoji most of all, takes time and memory."""
    return "" if value is None else printable(untrusted.shortened(str(value)))


def printable(text: str) -> str:
    """Text from a file, safe for a terminal: control, escape and direction characters are shown as ?, and it is cut."""
    return untrusted.printable(untrusted.shortened(text, untrusted.LONGEST_LINE), "?")


def seconds(value: float | None) -> str:
    """A time with three digits and a unit: 1.23 ms."""
    if value is None:
        return ""
    units = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
    scale, unit = next((u for u in units if value >= u[0]), units[-1])
    return f"{value / scale:.3g} {unit}" if value / scale < 999.5 else f"{value / scale:.0f} {unit}"


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits and thousands separators; empty for None."""
    if value is None:
        return ""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"
