"""The run's journal: an append-only file that survives a kill at any moment.

journal.jsonl holds a header line (the record without rows, the cases, the implementations, the policy),
then one line for each finished case with all of its rows. A line is written and synced in one go; a torn
last line is dropped on reading, so a case is either whole or not there, and is never measured twice.
A line may be missing or stand twice: what counts is the number of the case in it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct
from platformdirs import user_cache_dir

from convbench.case import Case
from convbench.errors import InputError, OutputError
from convbench.measure import Policy
from convbench.results import SCHEMA_VERSION, Record, RecordedRow
from convbench.untrusted import DECODE_ERRORS, read_limited

JOURNAL = "journal.jsonl"


class Header(Struct, kw_only=True):
    """What a resumed run needs to go on as it began."""

    schema_version: int = SCHEMA_VERSION
    record: Record
    cases: list[Case]
    implementations: list[str]
    policy: Policy
    threads: int
    seed: int
    named: list[str] = []
    isolated: list[str] = []


class Entry(Struct, kw_only=True):
    """One finished case: its position in the header's cases, its rows, and all the run's warnings until then."""

    case: Annotated[int, Meta(ge=0)]
    rows: list[RecordedRow]
    timings: dict[str, float] = {}
    warnings: list[str] = []


H = TypeVar("H", bound=Struct)
E = TypeVar("E", bound=Struct)


class Log(Generic[H, E]):
    """A header line, then a line for each entry. ``command`` is the one whose --resume goes on with it."""

    def __init__(self, path: Path, header: type[H], entry: type[E], command: str) -> None:
        self.path, self.header, self.entry, self.command = path, header, entry, command

    def claim(self) -> None:
        """Make the folder and see that it can be written and holds none yet, before time is spent on one.

        Raises OutputError.
        """
        folder = self.path.parent
        make_folder(folder)
        try:
            with TemporaryFile(dir=folder) as file:
                file.write(b"a")
        except OSError as error:
            raise OutputError(f"{folder}: {error.strerror}; choose another --out") from None
        if self.path.exists():
            raise self._taken()

    def start(self, header: H) -> None:
        """Create the file. Raises OutputError where one exists or the folder cannot be written."""
        self.claim()
        try:
            with self.path.open("xb") as file:
                _write_line(file, header)
        except FileExistsError:
            raise self._taken() from None
        except OSError as error:
            raise OutputError(f"{self.path.parent}: {error.strerror}; choose another --out") from None

    def lock(self) -> None:
        """Keep every other process from going on with this one until this process ends, where the system can.

        Raises InputError where another has it, or there is none.
        """
        with suppress(ImportError):  # not on Windows
            import fcntl

            try:
                self._lock = self.path.open("r+b")  # writable, or NFS refuses the lock
            except OSError as error:
                raise InputError(f"{self.path}: {error.strerror}; --resume takes the folder of a run") from None
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{self.path.parent}: a run is going on there; wait for its end") from None
            except OSError:  # a file system without locks
                return

    def _taken(self) -> OutputError:
        folder = self.path.parent
        return OutputError(
            f"{folder}: holds a run already; go on with `{self.command} --resume {folder}` or choose another --out"
        )

    def append(self, entry: E) -> None:
        """Add one entry. Raises OutputError when the disk is full or the file is gone; what is there stays."""
        try:
            with open(self.path, "ab", opener=_existing) as file:
                _write_line(file, entry)
        except FileNotFoundError:
            raise OutputError(f"{self.path}: is gone; whatever removed it, run again in another --out") from None
        except OSError as error:
            raise OutputError(
                f"{self.path}: {error.strerror}; what is finished is kept, make room and go on with "
                f"`{self.command} --resume {self.path.parent}`"
            ) from None

    def read(self) -> tuple[H, list[E]]:
        """Header and whole entries; a torn last line is cut off. Raises InputError naming the line.

        A file that is no journal is left as it is.
        """
        data = read_limited(self.path, "--resume takes the folder of a run")
        whole, _, torn = data.rpartition(b"\n")
        first, *lines = whole.split(b"\n")
        header: H = _decode(first, self.header, f"{self.path}, line 1", "--resume takes the folder of a run")
        entries = []
        for number, line in enumerate(lines, 2):
            where, advice = f"{self.path}, line {number}", "delete this line and resume: it is measured again"
            entries.append(_decode(line, self.entry, where, advice))
            if complaint := self.complaint(header, entries[-1]):
                raise InputError(f"{where}: {complaint}; {advice}")
        if torn:
            with self.path.open("r+b") as file:
                file.truncate(len(whole) + 1)
        return header, entries

    def complaint(self, header: H, entry: E) -> str:
        """What is wrong with an entry under this header, or ""."""
        return ""


class Journal(Log[Header, Entry]):
    """The journal in a run's folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / JOURNAL, Header, Entry, "convbench run")

    def read(self) -> tuple[Header, list[Entry]]:
        """Header and finished cases, each once."""
        header, entries = super().read()
        first: dict[int, Entry] = {}
        for entry in entries:
            first.setdefault(entry.case, entry)
        return header, list(first.values())

    def complaint(self, header: Header, entry: Entry) -> str:
        return "" if entry.case < len(header.cases) else f"case {entry.case} of {len(header.cases)} cases"


def _existing(path: str, flags: int) -> int:
    """A journal without its header would be no journal."""
    return os.open(path, flags & ~os.O_CREAT)


def _write_line(file: Any, value: Struct) -> None:
    file.write(msgspec.json.encode(value) + b"\n")
    file.flush()
    os.fsync(file.fileno())


def _decode(line: bytes, kind: type, where: str, advice: str) -> Any:
    try:
        return msgspec.json.decode(line, type=kind)
    except (*DECODE_ERRORS, InputError) as error:
        raise InputError(f"{where}: damaged ({error}); {advice}") from None


def cache_folder(name: str) -> Path:
    """Where what can be made again is kept; CONVBENCH_CACHE_DIR moves all of it. It may not exist yet."""
    return Path(os.environ.get("CONVBENCH_CACHE_DIR") or user_cache_dir("convbench", appauthor=False)) / name


def make_folder(folder: Path) -> None:
    """Create a folder where there is none. Raises OutputError naming it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror}; choose another --out") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file or leave the old one; a device or a pipe stays what it is. Raises OutputError naming the file.

    A link is followed.
    """
    target = path.resolve()
    temporary = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
            return
        with temporary.open("wb") as file:
            file.write(data)
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        with suppress(OSError):  # a read-only file system refuses even what is not there
            temporary.unlink(missing_ok=True)
        raise OutputError(f"{path}: {error.strerror}; make room or choose another folder") from None
