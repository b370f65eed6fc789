"""Threads: the same number for every pool, or one line that says why not."""

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
