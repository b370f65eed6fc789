"""Files and text that a stranger may have written: what is read has limits, what is shown can do nothing.

A file is refused before it is decoded where its values would need much more memory than the file. Text keeps its
letters, but no control, surrogate or direction character that could drive a terminal or reorder what stands around it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from convbench.errors import InputError

LARGEST_BYTES = 128 * 2**20
MOST_VALUES = 5_000_000  # 10,000 cells of 500; each takes up to some 100 bytes decoded: below 1 GiB with a copy
MOST_ROWS = 50_000  # of one run: a page holds each of them several times
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
SHELLS_PIPES = ("/dev", "/dev/fd", "/proc/self/fd")  # and devices: the only places where they are read

LONGEST_TEXT = 300  # a name on a page
LONGEST_LINE = 2000  # of a terminal, a comment, an annotation
LONGEST_DETAIL = 300  # characters of an exception's message
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def read_limited(path: Path, advice: str) -> bytes:
    """A whole file of records. Raises InputError naming it where it cannot be read or is too large.

    advice  what to give in its place
    """
    check_kind(path, advice)
    try:
        with path.open("rb") as file:  # not by its size: a device or a pipe has none
            data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {advice}") from None
    if len(data) > LARGEST_BYTES:
        raise InputError(f"{path}: larger than {LARGEST_BYTES >> 20} MiB, which no run is; {advice}")
    values = sum(map(data.count, (b",", b"[", b"{")))
    if values > MOST_VALUES:
        raise InputError(f"{path}: {values:,} values, more than the {MOST_VALUES:,} of the largest run; {advice}")
    return data


def check_kind(path: Path, advice: str) -> None:
    """Raises InputError for a pipe or a device, which might be waited for, but where a shell puts them."""
    if path.exists() and not (path.is_file() or path.is_dir() or str(path.parent) in SHELLS_PIPES):
        raise InputError(f"{path}: is no regular file; {advice}")


def check_rows(path: Path, count: int) -> None:
    """Raises InputError where a run has more rows than can be worked with."""
    if count > MOST_ROWS:
        raise InputError(f"{path}: {count:,} rows in one run, more than {MOST_ROWS:,}; split the run into several")


def printable(value: Any, replacement: str = REPLACEMENT) -> Any:
    """Text without control, surrogate and direction characters; anything else as it is."""
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(c if c.isprintable() else replacement for c in value)


def shortened(text: str, longest: int = LONGEST_TEXT) -> str:
    """Text cut to so many characters, saying so."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def escaped(json_text: str) -> str:
    """The same JSON, on lines, with escapes for what is not printable."""
    return re.sub(
        r"[^\x20-\x7e\n]", lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], json_text
    )


def one_line(text: str, replacement: str = REPLACEMENT) -> str:
    """Text of any length and content as one line to show."""
    return printable(" ".join(shortened(text, LONGEST_LINE).split()), replacement)


def failure(error: BaseException) -> tuple[Literal["error", "out_of_memory"], str]:
    """Status and one line for an exception out of a stranger's code."""
    name = type(error).__name__
    try:
        text = printable(" ".join(str(error).split()))
    except Exception:
        text = "its message cannot be had"
    if len(text) > LONGEST_DETAIL:  # compilers name the cause last
        text = f"{text[: LONGEST_DETAIL // 3]} ... {text[-2 * LONGEST_DETAIL // 3 :]}"
    out_of_memory = isinstance(error, MemoryError) or name == "OutOfMemoryError" or "DefaultCPUAllocator: " in text
    return "out_of_memory" if out_of_memory else "error", f"{name}: {text}"
