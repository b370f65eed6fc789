"""Threads: the same number for every pool, or one line that says why not. Memory: kept, then returned."""

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from convbench import process
from convbench.errors import InputError


def test_a_thread_pool_that_cannot_grow_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr(process, "usable_cpus", lambda: 4)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(set_num_threads=lambda threads: None))
    monkeypatch.setitem(sys.modules, "numba", SimpleNamespace(config=SimpleNamespace(NUMBA_NUM_THREADS=2)))
    with pytest.raises(InputError, match="--threads 3: Numba began with 2 in this process"):
        process.prepare(3)


@pytest.mark.parametrize("threads", [0, 5, -1])
def test_threads_that_the_machine_does_not_have(monkeypatch, threads):
    monkeypatch.setattr(process, "usable_cpus", lambda: 4)
    with pytest.raises(InputError, match=f"--threads {threads}: expected 1 to 4"):
        process.prepare(threads)


KEEPING = """
import numpy, psutil
from convbench.process import keep_freed_memory, return_freed_memory
rss = lambda: psutil.Process().memory_info().rss >> 20
keep_freed_memory()
before = rss()
numpy.ones(1 << 25)
kept = rss()
return_freed_memory()
print(kept - before, rss() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps memory when asked")
def test_freed_memory_is_kept_while_a_case_is_measured_and_then_returned():
    done = subprocess.run([sys.executable, "-c", KEEPING], capture_output=True, text=True, check=True)
    kept, returned = map(int, done.stdout.split())  # of 256 MiB
    assert kept > 200
    assert returned < 50


def test_what_a_kernel_changes_is_told_once_and_put_back(tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    threads, conditions = torch.get_num_threads(), process.Conditions()
    assert conditions.restored() == ""
    torch.set_num_threads(threads + 1)
    torch.set_default_dtype(torch.float64)
    assert conditions.restored() == (
        f"torch's number of threads from {threads} to {threads + 1}, "
        "torch's default type from torch.float32 to torch.float64"
    )
    assert conditions.restored() == "" and torch.get_num_threads() == threads
    tmp_path.rmdir()
    assert conditions.restored().endswith("to one that is gone")
    assert conditions.restored() == "", "not of those who come after"
