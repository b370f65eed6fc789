"""The compilation cache: found again by a second process, not found after an edit, nobody else's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest
import torch

import convbench_kernels
from convbench_kernels.answers import CACHE_VARIABLE
from convbench_kernels.numba_cpu import jit

PROGRAM = """
import numpy as np
from convbench_kernels.numba_cpu.jit import share
share(10, 1, 2)
print(sum(share.stats.cache_hits.values()), sum(share.stats.cache_misses.values()))
"""
ENGINE = """
import torch
from convbench.plugin import Case, ConvSpec
from convbench_kernels.numba_cpu.direct import IMPLEMENTATION
from convbench_kernels.numba_cpu.implicit_gemm import convolve
for size in 5, 200:  # on one thread, on all
    case = Case(ConvSpec.create([1, 3, size, size], 4, 3, padding=1))
    y = IMPLEMENTATION.build(case).run(torch.ones(1, 3, size, size), torch.ones(4, 3, 3, 3))
    assert y[0, 0, 2, 2] == 27
print(sum(convolve.stats.cache_hits.values()), sum(convolve.stats.cache_misses.values()))
"""


def hits_and_misses(program, cache, path=None):
    environment = os.environ | {CACHE_VARIABLE: str(cache)}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(int(word) for word in done.stdout.split())


def test_second_process_starts_from_the_cache():
    """The largest kernel, in the cache that lasts: compiling it takes half a minute, so never in an empty one."""
    cache = jit.cache_folder().parents[1]
    hits_and_misses(ENGINE, cache)
    assert hits_and_misses(ENGINE, cache) == (1, 0)


def test_an_edit_in_another_file_takes_effect(tmp_path):
    """share is compiled from jit.py alone; simd.py changes, and it is compiled again."""
    package = tmp_path / "source" / "convbench_kernels"
    shutil.copytree(Path(convbench_kernels.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    cache = tmp_path / "cache"
    program = PROGRAM + "import convbench_kernels as c; assert c.__file__.startswith(" + repr(str(tmp_path)) + ")\n"
    first = [hits_and_misses(program, cache, package.parent) for _ in range(2)]
    with (package / "numba_cpu" / "simd.py").open("a") as file:
        file.write("# edited\n")
    edited = [hits_and_misses(program, cache, package.parent) for _ in range(2)]
    assert first == edited == [(0, 1), (1, 0)]


def test_hash_sees_names_and_contents(tmp_path):
    def hashed(**files):
        for old in tmp_path.glob("*"):
            old.unlink()
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        return jit.source_hash(tmp_path)

    variants = [hashed(a="1", b="2"), hashed(a="2", b="1"), hashed(a="1"), hashed(a="1", c="2"), hashed()]
    assert len(set(variants)) == len(variants)
    assert hashed(a="1", b="2") == variants[0]


def test_other_functions_keep_their_own_cache_folder():
    before = numba.config.CACHE_DIR
    jit.kernel(test_other_functions_keep_their_own_cache_folder)
    assert before == numba.config.CACHE_DIR
    assert jit.share.stats.cache_path.startswith(str(jit.cache_folder()))


def test_compiles_without_any_writable_folder(monkeypatch):
    def refuse(*args, **kwargs):
        if kwargs.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return real(*args, **kwargs)

    real = numba.njit
    monkeypatch.setattr(jit.numba, "njit", refuse)
    assert jit.kernel(_double)(4) == 8


def _double(value):
    return 2 * value


def test_not_a_number_is_never_assumed_away():
    assert not {"nnan", "ninf", "fast"} & jit.FASTMATH


@pytest.mark.parametrize("total", [0, 1, 5, 6, 17])
@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_shares_are_even_and_whole(total, parts):
    ranges = [jit.share(total, part, parts) for part in range(parts)]
    assert [i for begin, end in ranges for i in range(begin, end)] == list(range(total))
    sizes = [end - begin for begin, end in ranges]
    assert max(sizes) - min(sizes) <= 1


def test_threads_are_started_for_work_that_is_worth_them(monkeypatch):
    monkeypatch.setattr(jit, "SMALL", 1000)
    torch.set_num_threads(2)
    assert [jit.threads_for(macs) for macs in (0, 1999, 2000, 10**9)] == [1, 1, 2, 2]
    torch.set_num_threads(1)
    assert jit.threads_for(10**9) == 1, "torch's number holds for both"
    torch.set_num_threads(2)


def test_first_launch_leaves_torch_its_number_of_threads():
    program = """
import torch
torch.set_num_threads(1)
from convbench.plugin import Case, ConvSpec
from convbench_kernels.numba_cpu.gemm import IMPLEMENTATION
run = IMPLEMENTATION.build(Case(ConvSpec.create([1, 32, 64, 64], 32, 1))).run
run(torch.ones(1, 32, 64, 64), torch.ones(32, 32, 1, 1))
print(torch.get_num_threads(), 1)
"""
    assert hits_and_misses(program, jit.cache_folder().parents[1]) == (1, 1)
