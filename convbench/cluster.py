"""One command line on several kinds of nodes: an exclusive job each, by submitit, on SLURM or on this machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from convbench.errors import EXIT_OK, EXIT_SOME_CELLS_FAILED, InputError
from convbench.journal import JOURNAL, make_folder

if TYPE_CHECKING:
    import psutil
    import submitit

Command = Callable[[Path], list[str]]

LOCAL = "local"  # the place that is this machine
LOGS = "jobs"  # submitit's own files, in the folder of all results
LAST_WORDS_S = 5  # a job that runs out of time is told so much before it is killed
STOPPING_S = 30  # a local job that is cancelled has so long to write what it has


@dataclass(frozen=True)
class Ended:
    """What became of one job."""

    place: str  # unique: a place asked for twice is "local", "local-2"
    folder: Path  # its results
    failure: str = ""  # why they cannot be used, in one line
    cells_failed: bool = False


def needed() -> None:
    """Raises InputError where submitit is not installed."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise InputError("--cluster needs submitit, which is not installed: `pip install submitit`") from None


def fan_out(command: Command, places: Sequence[str], folder: Path, minutes: float,
            tell: Callable[[str], None]) -> Generator[Ended, None, None]:  # fmt: skip
    """Run a command once on each place, and say how each ended, in the order of places.

    command   FOLDER/PLACE -> the command line that writes its results there
    places    ``local``, or a SLURM partition, with ``:FEATURE`` for one type of its nodes
    folder    where all results go; on SLURM the nodes must share it
    minutes   the longest one job may run; waiting for a node is not counted

    Jobs on SLURM run at once, local ones one after another, as each must have its machine to itself. What is
    unfinished when the caller stops is cancelled. Raises InputError where a partition is named and SLURM is not here,
    OutputError where the folder cannot be made.
    """
    make_folder(folder)
    folders = _folders(places, folder)
    started: dict[str, submitit.Job[int] | str] = {}
    slurm = [(name, place) for name, place in zip(folders, places, strict=True) if place != LOCAL]
    try:
        for name, place in slurm:
            started[name] = _submit(place, command, folders[name], minutes)
            tell(f"{name}: {_announced(started[name])}")
        for name, out in folders.items():
            if name not in started:
                tell(f"{name}: running on this machine, log in {folder / LOGS}")
                with _interrupts_kept_from_children():
                    started[name] = _submit(LOCAL, command, out, minutes)
            yield _ended(name, out, started[name], minutes)
    finally:
        for name, job in started.items():
            if not isinstance(job, str) and not job.done():
                _cancel(job, command(folders[name]))


@contextmanager
def _interrupts_kept_from_children() -> Iterator[None]:
    """Ctrl-C, which a terminal sends to every process, is for this one alone: it cancels its jobs itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cancel(job: submitit.Job[int], words: list[str]) -> None:
    """On this machine the command is told to end, and what is left of its job then is killed."""
    import psutil
    import submitit

    if not isinstance(job, submitit.LocalJob):
        job.cancel(check=False)
        return
    with suppress(psutil.NoSuchProcess):
        controller, until = psutil.Process(int(job.job_id)), monotonic() + STOPPING_S
        told: set[psutil.Process] = set()
        try:
            while not job.done() and monotonic() < until:
                for process in set(controller.children(recursive=True)) - told:
                    if _command_of(process) == words:
                        process.terminate()
                        told.add(process)
                sleep(0.1)
        finally:  # also where the user does not want to wait
            for process in (controller, *controller.children(recursive=True)):
                process.kill()


def _command_of(process: psutil.Process) -> list[str]:
    import psutil

    try:
        return process.cmdline()
    except psutil.Error:  # ended meanwhile
        return []


def _folders(places: Sequence[str], folder: Path) -> dict[str, Path]:
    """Unique name -> folder of its results."""
    found: dict[str, Path] = {}
    for place in places:
        stem = re.sub(r"[^\w.-]", "-", place)
        name, number = stem, 2
        while name in found or name == LOGS:
            name, number = f"{stem}-{number}", number + 1
        found[name] = folder / name
    return found


def _submit(place: str, command: Command, out: Path, minutes: float) -> submitit.Job[int] | str:
    """The job, or why it was not taken."""
    from submitit.core.utils import FailedJobError

    try:
        return _executor(place, out.parent / LOGS, minutes).submit(
            subprocess.call, command(out),
            # Local jobs see the GPUs that this process sees: submitit would hide them.
            env=dict(os.environ) if place == LOCAL else None,
        )  # fmt: skip
    except FailedJobError as error:  # sbatch refused
        return _last_line(str(error))


def _executor(place: str, logs: Path, minutes: float) -> submitit.Executor:
    import submitit

    if place == LOCAL:
        local = submitit.LocalExecutor(logs)
        local.update_parameters(timeout_min=minutes, signal_delay_s=LAST_WORDS_S)
        return local
    partition, _, feature = place.partition(":")
    try:
        slurm = submitit.SlurmExecutor(logs)
    except RuntimeError:
        raise InputError(
            f"--cluster {place}: no SLURM here (srun is not found); --cluster local is this machine"
        ) from None
    slurm.update_parameters(
        job_name="convbench", partition=partition, constraint=feature or None, time=max(1, round(minutes)), nodes=1,
        # The whole node: exclusive gives all CPUs and GPUs, mem=0 all memory, and srun could bind to a part of them.
        exclusive=True, additional_parameters={"mem": 0}, use_srun=False, signal_delay_s=LAST_WORDS_S,
    )  # fmt: skip
    return slurm


def _announced(started: submitit.Job[int] | str) -> str:
    return "not taken" if isinstance(started, str) else f"job {started.job_id}, log {started.paths.stderr}"


def _ended(name: str, out: Path, job: submitit.Job[int] | str, minutes: float) -> Ended:
    """Wait for a job."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    if isinstance(job, str):
        return Ended(name, out, f"not taken: {job}")
    try:
        code = job.result()
    except (FailedJobError, UncompletedJobError) as error:
        late = "timed-out" in str(error) or job.state.startswith("TIMEOUT")
        what = f"timed out after {minutes:g} minutes" if late else f"ended without a result, state {job.state}"
        kept = f"; what is finished is kept in {out / JOURNAL}" if (out / JOURNAL).exists() else ""
        return Ended(name, out, f"{what}{kept}; log {job.paths.stderr}")
    if code in (EXIT_OK, EXIT_SOME_CELLS_FAILED):
        return Ended(name, out, cells_failed=code == EXIT_SOME_CELLS_FAILED)
    return Ended(name, out, f"exit code {code}: {_last_line(job.stderr() or '')}")


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")
