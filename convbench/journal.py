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
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from convbench.case import Case
from convbench.errors import InputError, OutputError
from convbench.measure import Policy
from convbench.results import SCHEMA_VERSION, Record, RecordedRow

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


class Entry(Struct, kw_only=True):
    """One finished case: its position in the header's cases, its rows, and all the run's warnings until then."""

    case: Annotated[int, Meta(ge=0)]
    rows: list[RecordedRow]
    timings: dict[str, float] = {}
    warnings: list[str] = []


class Journal:
    """An open journal in a run's folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL

    def claim(self) -> None:
        """Make the folder and see that it can be written and holds no run, before time is spent on one.

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

    def start(self, header: Header) -> None:
        """Create the journal. Raises OutputError where one exists or the folder cannot be written."""
        self.claim()
        try:
            with self.path.open("xb") as file:
                _write_line(file, header)
        except FileExistsError:
            raise self._taken() from None
        except OSError as error:
            raise OutputError(f"{self.path.parent}: {error.strerror}; choose another --out") from None

    def _taken(self) -> OutputError:
        folder = self.path.parent
        return OutputError(
            f"{folder}: holds a run already; go on with `convbench run --resume {folder}` or choose another --out"
        )

    def append(self, entry: Entry) -> None:
        """Add one finished case. Raises OutputError when the disk is full; what is there stays."""
        try:
            with self.path.open("ab") as file:
                _write_line(file, entry)
        except OSError as error:
            raise OutputError(
                f"{self.path}: {error.strerror}; finished cases are kept, make room and go on with "
                f"`convbench run --resume {self.path.parent}`"
            ) from None

    def read(self) -> tuple[Header, list[Entry]]:
        """Header and finished cases, each once; a torn last line is cut off. Raises InputError naming the line.

        A file that is no journal is left as it is.
        """
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror}; --resume takes the folder of a run") from None
        whole, _, torn = data.rpartition(b"\n")
        first, *lines = whole.split(b"\n")
        header: Header = _decode(first, Header, f"{self.path}, line 1", "--resume takes the folder of a run")
        entries: dict[int, Entry] = {}
        for number, line in enumerate(lines, 2):
            where, advice = f"{self.path}, line {number}", "delete this line and resume: its case is measured again"
            entry = _decode(line, Entry, where, advice)
            if entry.case >= len(header.cases):
                raise InputError(f"{where}: case {entry.case} of {len(header.cases)} cases; {advice}")
            entries.setdefault(entry.case, entry)
        if torn:
            with self.path.open("r+b") as file:
                file.truncate(len(whole) + 1)
        return header, list(entries.values())


def _write_line(file: Any, value: Struct) -> None:
    file.write(msgspec.json.encode(value) + b"\n")
    file.flush()
    os.fsync(file.fileno())


def _decode(line: bytes, kind: type, where: str, advice: str) -> Any:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InputError) as error:
        raise InputError(f"{where}: damaged ({error}); {advice}") from None


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
