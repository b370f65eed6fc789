"""`convbench train`: models trained on chosen kernels side by side, as a benchmark of the whole step."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from convbench.cli import common
from convbench.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_SOME_CELLS_FAILED, InputError
from convbench.train.settings import Augmentation, Form, Loss, Optimizer, Schedule, Settings, Task, Variant

if TYPE_CHECKING:
    from convbench.train.parallel import Group
    from convbench.train.result import History, Result
    from convbench.train.session import Session

RUNS = Path("reports")  # where results go without --out
# What a task trains without options
DEFAULTS: dict[str, dict[str, Any]] = {
    "classify": {
        "data": "mnist5k", "model": ("classifier", "fully_connected"), "set": {}, "epochs": 10, "batch": 64,
        "loss": "cross-entropy", "learning_rate": 0.003, "target": 0.985, "augment": ("shift", "crop", "rotate"),
    },
    "segment": {
        "data": "brain", "model": ("unet",), "set": {"width": 16}, "epochs": 20, "batch": 8,
        "loss": "both", "learning_rate": 0.003, "target": 0.85, "augment": ("flip", "shift", "crop", "rotate", "noise"),
    },
}  # fmt: skip


class Argument(click.ParamType):
    """NAME=VALUE, the value as JSON or else text."""

    name = "name=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        name, equals, text = str(value).partition("=")
        if not equals or not name.isidentifier():
            self.fail(f"{value} is no argument; write NAME=VALUE such as width=16", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text


@click.command(
    epilog=common.examples(
        "convbench train classify",
        "convbench train segment --form dense --epochs 10",
        "convbench train classify --data photos --model resnet --set width=0.25 --epochs 20",
        "convbench train classify --model my_net.py:make --impl numba.auto --impl torch.channels_last",
        "convbench train --resume results",
    )
)
@click.argument("task", type=click.Choice(get_args(Task)), required=False)
@click.option("--data", metavar="NAME|DIR", help="mnist5k, digits, brain, nuclei, or a folder of images.")
@click.option("--model", "models", multiple=True, metavar="SPEC", help="Built in, FILE.py:FACTORY or MODULE:FACTORY.")
@click.option("--set", "arguments", multiple=True, type=Argument(), help="Argument for the models' factories.")
@click.option(
    "--form",
    "forms",
    multiple=True,
    type=click.Choice(get_args(Form)[:2]),
    help="Convolutions of the models (default: both).",
)
@click.option(
    "--impl",
    "implementations",
    multiple=True,
    metavar="NAME",
    help="What computes convolutions (default: numba.auto, torch.aten).",
)
@click.option("--epochs", type=click.IntRange(1), help="Times through the training images.")
@click.option("--batch", type=click.IntRange(1), help="Images a step, over all processes.")
@click.option("--loss", type=click.Choice(get_args(Loss)), help="Dice and both are for segmentation.")
@click.option("--optimizer", type=click.Choice(get_args(Optimizer)), default="adam", show_default=True)
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="The largest of the schedule.")
@click.option(
    "--momentum", type=click.FloatRange(0, 1, max_open=True), default=0.9, show_default=True, help="Of sgd and rmsprop."
)
@click.option("--weight-decay", type=click.FloatRange(0), default=0.0, show_default=True)
@click.option("--schedule", type=click.Choice(get_args(Schedule)), default="onecycle", show_default=True)
@click.option(
    "--augment",
    multiple=True,
    type=click.Choice([*get_args(Augmentation), "none"]),
    help="Random changes of training images and their masks.",
)
@click.option("--target", type=common.Fraction(), help="Accuracy or mean IoU to time.")
@click.option("--device", default="cpu", show_default=True, metavar="NAME", help="cpu, cuda, cuda:N.")
@click.option("--threads", type=int, metavar="N", help="Threads of a process (default: all CPUs).")
@click.option("--strict", is_flag=True, help="Stop a variant rather than let torch compute a convolution for it.")
@click.option("--seed", type=common.Seed(), default="0", help="Of weights, order, augmentation and dropout.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where to write (default: reports/MACHINE/TIME-train).",
)
@click.option("--resume", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Go on with an interrupted training; runs the code of the model that it names.")  # fmt: skip
@common.json_option
def command(task: str | None, resume: Path | None, out: Path | None, as_json: bool, **options: Any) -> int:
    """Train models on chosen kernels, side by side.

    TASK is classify or segment. Every model, dense and separable, on every implementation, gets the same batches in
    lockstep with the same seeds; the step is timed in its parts. Writes train.json, train.csv, train.html and a
    checkpoint. Loads packages' own data, nothing from a network. --model runs that file's code.

    Several processes: torchrun --standalone --nproc-per-node=2 -m convbench train classify
    """
    if resume:
        common.refuse_options(resume)
    elif not task:
        raise click.UsageError("Missing argument 'TASK': classify or segment")
    from convbench.process import keep_freed_memory, prepare

    state, stored = None, None
    if resume:
        from convbench.plan import select_devices
        from convbench.train.session import load

        stored, state = load(resume)
        select_devices([stored.device])  # it may have begun on another machine
    threads = prepare(_threads(stored.threads if stored else options["threads"]))
    keep_freed_memory()
    settings = stored or _settings(str(task), threads, options)
    from convbench.machine.noise import snapshot
    from convbench.train import parallel

    before = snapshot()
    with parallel.joined(settings.device) as group:
        result, folder, done = _train(settings, state, resume, out, group)
        if group.rank:
            return EXIT_OK
    from convbench.machine.noise import warnings

    result.warnings = warnings(before, snapshot())
    paths = _write(result, folder)
    if as_json:
        common.emit_json("train", result.rows, savings=result.savings, settings=result.settings, paths=paths,
                         complete=done, warnings=result.warnings)  # fmt: skip
    else:
        from convbench.cli.trained import show

        show(result, paths)
    if not done:
        common.err().print(f"interrupted: go on with `convbench train --resume {folder}`")
        return EXIT_INTERRUPTED
    return EXIT_SOME_CELLS_FAILED if any(row.status != "ok" for row in result.rows) else EXIT_OK


# From options to settings -----------------------------------------------------------------------------------


def _threads(asked: int | None) -> int | None:
    """Processes of one machine share its CPUs."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if asked or local == 1:
        return asked
    from convbench.process import default_threads

    return max(1, default_threads() // local)


def _settings(task: str, threads: int, options: dict[str, Any]) -> Settings:
    """Raises InputError for options that do not go together, and for an unknown model, implementation or device."""
    from convbench.plan import select_devices

    defaults = DEFAULTS[task]
    chosen = {name: defaults[name] if options[name] in (None, ()) else options[name]
              for name in ("data", "epochs", "batch", "loss", "learning_rate", "target", "augment")}  # fmt: skip
    if task == "classify" and chosen["loss"] != "cross-entropy":
        raise InputError(f"--loss {chosen['loss']}: Dice compares masks; to classify use cross-entropy")
    if "none" in chosen["augment"] and len(chosen["augment"]) > 1:
        raise InputError("--augment none: leave out the others")
    arguments = dict(options["arguments"]) if options["arguments"] or options["models"] else defaults["set"]
    return Settings(
        task=task, **chosen | {"augment": tuple(a for a in dict.fromkeys(chosen["augment"]) if a != "none")},  # type: ignore[arg-type]
        variants=_variants(options["models"] or defaults["model"], options["forms"] or ("dense", "separable"),
                           _implementations(options["implementations"])),
        optimizer=options["optimizer"], momentum=options["momentum"], weight_decay=options["weight_decay"],
        schedule=options["schedule"], seed=options["seed"], threads=threads, arguments=arguments,
        device=select_devices([options["device"]])[0], strict=options["strict"],
    )  # fmt: skip


def _implementations(names: Sequence[str]) -> Sequence[str]:
    from convbench.registry import registry

    registry().select(list(dict.fromkeys(names)))
    return list(dict.fromkeys(names)) or ("numba.auto", "torch.aten")


def _variants(models: Sequence[str], forms: Sequence[Form], implementations: Sequence[str]) -> tuple[Variant, ...]:
    """Every model in every form on every implementation; one without the switch as it is, without convolutions once."""
    from convbench.models import find, parameters

    found = []
    for model in dict.fromkeys(models):
        module, factory = find(model)
        own = tuple(dict.fromkeys(forms)) if "separable" in parameters(factory) else ("as_is",)
        computed_by = implementations if getattr(module, "CONVOLVES", True) else ("torch.aten",)
        found += [Variant(model, form, name) for form in own for name in computed_by]
    return tuple(found)


# Training ---------------------------------------------------------------------------------------------------


def _train(
    settings: Settings, state: dict[str, Any] | None, resume: Path | None, out: Path | None, group: Group
) -> tuple[Result, Path, bool]:
    from convbench.journal import make_folder
    from convbench.machine.environment import detect
    from convbench.train import data as data_
    from convbench.train.session import CHECKPOINT, Session

    environment = detect()
    started = datetime.now(UTC)
    folder = resume or out or RUNS / environment.machine / f"{started:%Y-%m-%d_%H%M%S}-train"
    if not resume and (folder / CHECKPOINT).exists():
        raise InputError(
            f"--out {folder}: holds a training already; go on with `convbench train --resume {folder}` or choose "
            "another folder"
        )
    data = data_.load(settings.data, settings.task)
    session = Session(settings, data, group)
    if state:
        session.restore(state)
    if not group.rank:
        make_folder(folder)
        session.save(folder)  # a folder that cannot be written is known before time is spent
    # The first ends training after the step that runs; a second one at once.
    with common.interrupts(noted=1) as signals, _live(session, group) as progress:
        done = session.run(progress, folder, lambda: bool(signals))
    return _result(session, environment, started, done), folder, done


def _result(session: Session, environment: Any, started: datetime, done: bool) -> Result:
    from convbench.train.examples import examples
    from convbench.train.result import Result, row_of, savings

    histories, settings, data = session.histories, session.settings, session.data
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Result(
        started=started.isoformat(timespec="seconds"), machine=environment.machine, settings=settings,
        classes=data.classes, image=(data.channels, *data.size), split=data.split, processes=session.group.world,
        environment=environment, peak_rss_bytes=peak, warnings=[], complete=done,
        rows=[row_of(h, histories, settings, session.group.world) for h in histories],
        savings=savings(histories), histories=histories,
        examples=examples(session.trainers, data) if not session.group.rank else [],
    )  # fmt: skip


class _Lines:
    """Progress as one line an epoch; on a terminal with a bar below."""

    def __init__(self, session: Session, bar: Any = None) -> None:
        self.session, self.bar = session, bar
        self.task = bar.add_task("", total=session.total, completed=session.done) if bar else None

    def step(self, done: int, total: int, histories: list[History]) -> None:
        if self.bar:
            losses = "  ".join(f"{h.losses[-1]:.3g}" for h in histories if h.losses)
            self.bar.update(self.task, completed=done, description=f"loss {losses}")

    def epoch(self, number: int, histories: list[History]) -> None:
        settings = self.session.settings
        shown = ", ".join(f"{h.evaluations[-1].metric:.4f}" if h.status == "ok" else h.status for h in histories)
        common.err().print(f"epoch {number}/{settings.epochs}: {settings.metric} {shown}")


class _Silent:
    def step(self, done: int, total: int, histories: list[History]) -> None:
        pass

    def epoch(self, number: int, histories: list[History]) -> None:
        pass


@contextmanager
def _live(session: Session, group: Group) -> Iterator[Any]:
    if group.rank:
        yield _Silent()
        return
    for history in session.histories:
        common.err().print(common.printable(f"{history.variant.name}: {history.params:,} parameters"), style="dim")
    if not common.err().is_terminal:
        yield _Lines(session)
        return
    from convbench.cli.progress import bar

    with bar() as drawn:
        yield _Lines(session, drawn)


# Output -----------------------------------------------------------------------------------------------------


def _write(result: Result, folder: Path) -> dict[str, str]:
    import msgspec

    from convbench.journal import write_atomically
    from convbench.report import render_training
    from convbench.results import csv_text
    from convbench.train.result import COLUMNS

    paths = {name: folder / name for name in ("train.json", "train.csv", "train.html")}
    write_atomically(paths["train.json"], msgspec.json.format(msgspec.json.encode(result), indent=1))
    lines = [[getattr(row, name) for name in COLUMNS] for row in result.rows]
    write_atomically(paths["train.csv"], csv_text(COLUMNS, lines).encode("utf-8", "replace"))
    try:
        write_atomically(paths["train.html"], render_training(result).encode("utf-8", "replace"))
    except InputError as error:  # no charts library here
        common.err().print(f"no train.html: {error}")
        del paths["train.html"]
    return {name: str(path) for name, path in paths.items()}
