"""The one place that decides how kernels are compiled, cached and run on threads.

- ``kernel`` / ``parallel_kernel`` decorate module-level functions. Kernels made by a factory (closures)
  would never be found in the cache again: use module constants and literal arguments instead.
- Numba's cache notices an edit in the decorated function's own file only. Machine code of a kernel
  also depends on simd.py, tiles.py and every function it inlines, so the cache folder is named by a
  hash of all kernel sources and the compiler's version: an edit anywhere starts an empty folder.
- Kernels do not count references (Numba's _nrt option): each call would add and subtract one for every array it is
  given, and on x86 such a locked instruction waits until all stores before it are done.
- Sums may be reordered and contracted (stated in the tolerance); NaN and infinity are never assumed away.
- Kernels run on threads by ``parallel``, each thread computing its own range (``share``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import config as _config

from convbench_kernels.answers import cache_base
from convbench_kernels.numba_cpu.parallel import most_threads

config: Any = _config  # Numba fills it in at import: no names for a type checker

FASTMATH = {"contract", "reassoc", "nsz", "arcp", "afn"}  # not nnan, not ninf
OPTIONS: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy", "fastmath": FASTMATH}

# omp launches fastest (workqueue took 3x longer on small layers and aborts on concurrent calls).
if "NUMBA_THREADING_LAYER" not in os.environ and "NUMBA_THREADING_LAYER_PRIORITY" not in os.environ:
    config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]


def source_hash(folder: Path = Path(__file__).parent) -> str:
    """Short hash of every Python source in the folder and of the compiler's version."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def cache_folder() -> Path:
    """Where this version of the kernels keeps its machine code; CONVBENCH_CACHE_DIR moves the base."""
    return cache_base() / "numba" / source_hash()


@contextmanager
def _our_cache() -> Iterator[None]:
    """Numba reads config.CACHE_DIR while decorating; nobody else's functions may see ours."""
    theirs, config.CACHE_DIR = config.CACHE_DIR, str(cache_folder())
    try:
        yield
    finally:
        config.CACHE_DIR = theirs


def _compile(function: Callable[..., Any], **options: Any) -> Any:
    with _our_cache():
        try:
            return numba.njit(cache=True, **OPTIONS, **options)(function)
        except RuntimeError:  # no folder is writable: compile in every process
            return numba.njit(**OPTIONS, **options)(function)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile on first call, or load from the cache. Runs on the calling thread. Arrays are borrowed, none is made."""
    return _compile(function, _nrt=False)


def inline_kernel(function: Callable[..., Any]) -> Any:
    """A piece of a kernel: merged into its callers' machine code."""
    return _compile(function, forceinline=True, _nrt=False)


def allocating_kernel(function: Callable[..., Any]) -> Any:
    """A kernel that makes arrays of its own, for a whole share of the work and not inside its loops."""
    return _compile(function, _nrt=True)  # callers without would pass that on


SMALL = 1 << 17  # MACs of a dense kernel: 1 to 2 us, as long as starting a thread takes
STREAMED = 16  # MACs' worth of an element that is read or written once


def parallel_kernel(function: Callable[..., Any]) -> Any:
    """Like kernel, with Numba's prange and its threads: for kernels written to be read."""
    return _compile(function, parallel=True)


def threads_for(macs: int) -> int:
    """Threads worth starting for so much work: SMALL at least for each, and no more than torch may use."""
    return max(1, min(most_threads(), macs // SMALL))


@inline_kernel
def share(total: int, part: int, parts: int) -> tuple[int, int]:
    """The even, static range [begin, end) of `total` items that belongs to part `part` of `parts`."""
    return total * part // parts, total * (part + 1) // parts
