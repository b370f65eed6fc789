"""Shares of a kernel on torch's threads: each done once, whoever asks."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from convbench_kernels.numba_cpu import parallel as runtime
from convbench_kernels.numba_cpu.jit import kernel
from convbench_kernels.numba_cpu.parallel import parallel


@kernel
def _count(counts, row, thread, threads):
    counts[row, thread] += 1 + 100 * threads


@kernel
def _run(counts, row, threads):
    parallel(threads, _count, (counts, row))


@kernel
def _inner(counts, width, thread, threads):
    parallel(width, _count, (counts, thread))


@kernel
def _nested(counts, rows, width):
    parallel(rows, _inner, (counts, width))


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_each_share_is_done_once_and_knows_how_many_there_are(threads):
    counts = np.zeros((2, 10), np.int64)
    _run(counts, 1, threads)
    assert counts.tolist() == [[0] * 10, [1 + 100 * threads] * threads + [0] * (10 - threads)]


def test_inside_another_region_the_threads_there_are_do_all_shares():
    counts = np.zeros((3, 5), np.int64)
    _nested(counts, 3, 4)
    assert counts.tolist() == [[401] * 4 + [0]] * 3


def test_python_threads_at_once():
    counts = np.zeros((8, 2), np.int64)
    calls = 500

    def work(row):
        for _ in range(calls):
            _run(counts, row, 2)

    workers = [threading.Thread(target=work, args=(row,)) for row in range(len(counts))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (counts == 201 * calls).all()


PROGRAM = """
import os, sys, torch
from convbench.plugin import Case, ConvSpec
from convbench_kernels.numba_cpu.direct import IMPLEMENTATION
from convbench_kernels.numba_cpu.parallel import most_threads
x, w = torch.ones(1, 3, 200, 200), torch.ones(4, 3, 3, 3)
run = IMPLEMENTATION.build(Case(ConvSpec.create(x.shape, 4, 3, padding=1))).run
torch.set_num_threads(2)
assert most_threads() == 2 and run(x, w)[0, 0, 2, 2] == 27
child = os.fork()
if not child:
    os._exit(0 if most_threads() == 1 and run(x, w)[0, 0, 2, 2] == 27 else 1)
if os.path.exists("/proc/self/maps"):
    assert "omppool" not in open("/proc/self/maps").read(), "Numba's pool was started as well"
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_one_pool_which_a_forked_process_does_not_wait_for():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "0", done.stderr


def test_without_the_runtime_there_is_one_thread_and_a_warning(monkeypatch):
    monkeypatch.setattr(runtime, "_available", False)
    with pytest.warns(UserWarning, match="run on one thread"):
        assert runtime.most_threads() == 1
