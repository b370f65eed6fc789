"""`convbench machine`: what this machine is and what it can reach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from convbench.cli import common

if TYPE_CHECKING:
    from convbench.machine.peaks import Progress
    from convbench.results import Environment, Peak


@click.command(
    epilog=common.examples(
        "convbench machine",
        "convbench machine --threads 1",
        "convbench machine --no-peaks",
        "convbench machine --device cpu --json",
    )
)
@click.option(
    "--device", multiple=True, metavar="DEVICE", help="cpu, cuda, cuda:1, ... (default: the CPU and the first GPU)."
)
@click.option("--threads", type=int, metavar="N", help="Threads to measure with (default: all CPUs).")
@click.option("--no-peaks", is_flag=True, help="Only look, measure nothing.")
@click.option("--quick", is_flag=True, help="Measure half as long.")
@common.json_option
def command(device: tuple[str, ...], threads: int | None, no_peaks: bool, quick: bool, as_json: bool) -> None:
    """Describe this machine and measure its limits.

    The limits are FMA, GEMM, and copy and triad in each cache level and in memory. A peak is the best of many samples,
    on all threads. Takes about five seconds.
    """
    from convbench.plan import select_devices
    from convbench.process import keep_freed_memory, prepare

    threads = prepare(threads)
    keep_freed_memory()
    from convbench.machine.environment import detect
    from convbench.machine.noise import snapshot, warnings

    environment, before = detect(with_torch=True), snapshot()
    devices = select_devices(device) if device else list(dict.fromkeys(["cpu", *select_devices(())]))
    peaks = [] if no_peaks else _measure(devices, threads, quick)
    noise = [] if no_peaks else warnings(before, snapshot())
    if as_json:
        common.emit_json("machine", peaks, environment=environment, threads=threads, warnings=noise)
        return
    _print(environment, peaks, threads)
    for warning in noise:
        common.err().print(f"warning: {warning}")


def _measure(devices: list[str], threads: int, quick: bool) -> list[Peak]:
    from convbench.machine.peaks import measure_peaks
    from convbench.registry import probes

    with _progress() as progress:
        return [peak for device in devices for peak in measure_peaks(device, threads, probes(), progress, quick)]


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on stderr; one line where that is not a terminal."""
    console = common.err()
    if not console.is_terminal:
        console.print("Measuring the limits of this machine ...")
        yield lambda done, total, what: None
        return
    from rich.progress import BarColumn, Progress, TextColumn

    with Progress(
        BarColumn(30), TextColumn("{task.description}", markup=False), console=console, transient=True
    ) as bar:
        task = bar.add_task("")
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what)


def _print(environment: Environment, peaks: list[Peak], threads: int) -> None:
    from convbench.report.tables import machine_facts, peak_lines
    from convbench.run import new_record

    facts = machine_facts(new_record(environment, peaks, {"threads": threads}, "machine"))
    facts += [("Variables", f"{name}={value}") for name, value in environment.variables.items()]
    common.table(environment.machine, [("what", "left"), ("value", "left")], facts, "--json has more")
    if not peaks:
        return
    heads: list[str | tuple[str, str]] = [("limit", "left"), ("level", "left"), ("on", "left"), "working set", "value"]
    plural = "s" if threads > 1 else ""
    common.table(f"Measured peaks, {threads} thread{plural}", heads, peak_lines(peaks))
    common.out().print("best of many samples; bytes as in STREAM: write-allocate not counted", style="dim")
