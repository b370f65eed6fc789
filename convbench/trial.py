"""A stranger's import tried in a copy of this process first: one that ends its process ends only the copy."""

from __future__ import annotations

import os
import select
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress

LONGEST_S = 120.0


def ending(function: Callable[[], object]) -> str:
    """Call the function in a fork of this process: how that ended, in a few words, or "" where it went on.

    An exception is no end: the caller will meet it too. Where a process cannot be copied safely (no fork, or CUDA is
    in use) nothing is tried.
    """
    if not hasattr(os, "fork") or _uses_cuda():
        return ""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which only wait here
        child = os.fork()
    if not child:
        _try(function, writer)
    os.close(writer)
    in_time = bool(select.select([reader], [], [], LONGEST_S)[0])
    went_on = in_time and os.read(reader, 1) == b"1"
    os.close(reader)
    if not in_time:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if went_on:
        return ""
    if not in_time:
        return f"did not end within {LONGEST_S:.0f} s"
    if status < 0:
        return f"ended its process by {signal.Signals(-status).name}"
    return f"ended its process with exit status {status}"


def _try(function: Callable[[], object], writer: int) -> None:
    """The copy: says that it got to the end, prints nothing, and never returns."""
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        with suppress(BaseException):  # the caller meets it again
            function()
        os.write(writer, b"1")
    finally:
        os._exit(0)


def _uses_cuda() -> bool:
    return "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized()
