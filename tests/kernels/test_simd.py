"""Every SIMD verb against NumPy, on this CPU's vectors and on the narrower ones that Numba can be told to use."""

import os
import sys

import numpy as np
import pytest
from numba import njit

from convbench_kernels.numba_cpu import simd, tiles
from convbench_kernels.numba_cpu.tiles import LANES, MR, NR
from tests.kernels.targets import NARROWER, TARGETS

ASKED = "CONVBENCH_TEST_ISA"
RANGES = [(0, LANES), (0, 1), (1, LANES), (LANES // 2, LANES - 1), (2, 2), (-3, LANES + 5)]
PLAIN = np.arange(200, dtype=np.float32)


def lanes_in(lo, hi):
    return np.array([lo <= lane < hi for lane in range(LANES)])


@njit
def _copy(x, i, y, j):
    simd.store(y, j, simd.load(x, i))


@njit
def _copy_range(x, i, y, j, lo, hi):
    simd.store(y, j, simd.load_range(x, i, lo, hi))


@njit
def _store_range(x, i, y, j, lo, hi):
    simd.store_range(y, j, simd.load(x, i), lo, hi)


@njit
def _stride2(x, i, y, j):
    simd.store(y, j, simd.load_stride2(x, i))


@njit
def _stride2_range(x, i, lo, hi, y):
    simd.store(y, 0, simd.load_stride2_range(x, i, lo, hi))


@njit
def _load4(x, i, y):
    a, b, c, d = simd.load4(x, i)
    simd.store(y, 0, a)
    simd.store(y, LANES, b)
    simd.store(y, 2 * LANES, c)
    simd.store(y, 3 * LANES, d)


@njit
def _zip2_of_difference(x, i, j, y):
    a, b = simd.zip2(simd.load(x, i), simd.sub(simd.load(x, i), simd.load(x, j)))
    simd.store(y, 0, a)
    simd.store(y, LANES, b)


@njit
def _gather(x, i, step, y, lo, hi):
    simd.store(y, 0, simd.gather(x, i, step, lo, hi))


@njit
def _scatter(x, y, i, step, lo, hi):
    simd.scatter(y, i, step, simd.load(x, 0), lo, hi)


@njit
def _arithmetic(x, s, y):
    a, b, c = simd.load(x, 0), simd.load(x, LANES), simd.broadcast(np.float32(s))
    simd.store(y, 0, simd.fma(a, b, c))
    simd.store(y, LANES, simd.add(a, c))
    simd.store(y, 2 * LANES, simd.mul(a, b))
    simd.store(y, 3 * LANES, simd.maximum(a, c))
    return simd.sum_lanes(a)


@njit
def _tile_product(a, row, b, y, depth):
    t = simd.tile_zero(MR, NR)
    for k in range(depth):
        t = simd.tile_fma(t, a, k, row, b, k * NR * LANES)
    simd.tile_store(t, y, 0, NR * LANES)
    t = simd.tile_fma(simd.tile_load(MR, NR, y, 0, NR * LANES), a, 0, row, b, 0)
    simd.tile_store(t, y, 0, NR * LANES)


@njit
def _tile_plus_and_least(y, s):
    t = simd.tile_plus(simd.tile_zero(2, 2), y, 0, 2 * LANES)
    simd.tile_store(simd.tile_least(simd.tile_plus(t, y, 0, 2 * LANES), np.float32(s)), y, 0, 2 * LANES)


@njit
def _tile_apart(a, b, y):
    t = simd.tile_fma_at(simd.tile_rows(2, 2, a, 0), a, 0, 1, b, 5, (0, 3 * LANES))
    simd.store(y, 0, simd.tile_get(t, 0, 1))
    simd.store(y, LANES, simd.tile_get(t, 1, 0))


@njit
def _tile_part(a, b, y, i, row, rows, lo, hi):
    t = simd.tile_fma(simd.tile_zero(4, 2), a, 0, 1, b, 0)
    simd.tile_store_range(t, 1, y, i, row, rows, lo, hi)


def test_moves_at_any_address():
    for i, j in ((0, 0), (1, 3), (17, 5)):
        y = np.full(40, -1, np.float32)
        _copy(PLAIN, i, y, j)
        assert np.array_equal(y[j : j + LANES], PLAIN[i : i + LANES])
        assert (np.delete(y, np.s_[j : j + LANES]) == -1).all()


@pytest.mark.parametrize(("lo", "hi"), RANGES)
def test_ranges_touch_only_their_lanes(lo, hi):
    inside = lanes_in(lo, hi)
    y = np.full(LANES, -1, np.float32)
    _copy_range(PLAIN, 7, y, 0, lo, hi)
    assert np.array_equal(y, np.where(inside, PLAIN[7 : 7 + LANES], 0))
    y = np.full(LANES + 8, -1, np.float32)
    _store_range(PLAIN, 7, y, 4, lo, hi)
    assert np.array_equal(y[4:-4], np.where(inside, PLAIN[7 : 7 + LANES], -1))
    assert (y[:4] == -1).all() and (y[-4:] == -1).all()


@pytest.mark.parametrize(("lo", "hi"), RANGES)
@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_gather_and_scatter(lo, hi, step):
    inside, at = lanes_in(lo, hi), 3 + step * np.arange(LANES)
    y = np.full(LANES, -1, np.float32)
    _gather(PLAIN, 3, step, y, lo, hi)
    assert np.array_equal(y, np.where(inside, PLAIN[at], 0))
    y = np.full(100, -1, np.float32)
    _scatter(PLAIN, y, 3, step, lo, hi)
    expected = np.full(100, -1, np.float32)
    expected[at[inside]] = PLAIN[:LANES][inside]
    assert np.array_equal(y, expected)


def test_stride_two_ends_with_its_last_element():
    y = np.zeros(LANES, np.float32)
    _stride2(PLAIN, 3, y, 0)
    assert np.array_equal(y, PLAIN[3 : 3 + 2 * LANES : 2])


def test_load4_takes_every_fourth():
    y = np.zeros(4 * LANES, np.float32)
    _load4(PLAIN, 3, y)
    assert np.array_equal(y.reshape(4, LANES), PLAIN[3 : 3 + 4 * LANES].reshape(LANES, 4).T)


def test_zip2_and_sub():
    y = np.zeros(2 * LANES, np.float32)
    _zip2_of_difference(PLAIN, 5, 1, y)
    assert np.array_equal(y[::2], PLAIN[5 : 5 + LANES])
    assert (y[1::2] == 4).all()


@pytest.mark.parametrize("lo", [0, 1, LANES // 2])
@pytest.mark.parametrize("hi", [-1, 0, 1, LANES // 2, LANES // 2 + 1, LANES - 1, LANES])
def test_stride_two_in_part_reads_nothing_beside_it(lo, hi):
    x, y = np.full(200, np.nan, np.float32), np.full(LANES, -1, np.float32)
    if lo < hi:
        x[3 + 2 * lo : 3 + 2 * hi - 1] = PLAIN[3 + 2 * lo : 3 + 2 * hi - 1]
    _stride2_range(x, 3, lo, hi, y)
    assert np.array_equal(y, np.where(lanes_in(lo, hi), PLAIN[3 : 3 + 2 * LANES : 2], 0))


@njit
def _transpose(x, i, row, y, j, out):
    simd.transpose(x, i, row, y, j, out)


def test_transpose_of_a_block():
    x, y = np.arange(40 * 40, dtype=np.float32).reshape(40, 40), np.full((30, 30), -1, np.float32)
    _transpose(x, 41, 40, y, 32, 30)
    expected = np.full((30, 30), -1, np.float32)
    expected[1 : 1 + LANES, 2 : 2 + LANES] = x[1 : 1 + LANES, 1 : 1 + LANES].T
    assert np.array_equal(y, expected)


def test_tile_plus_and_least():
    y = np.arange(4 * LANES, dtype=np.float32) - 5
    y[7] = np.nan
    expected = np.maximum(2 * y, 3)
    _tile_plus_and_least(y, 3.0)
    assert np.array_equal(y, expected, equal_nan=True)


def test_arithmetic_and_nan():
    x, y = PLAIN[: 2 * LANES].copy(), np.zeros(4 * LANES, np.float32)
    a, b = x[:LANES], x[LANES:]
    assert _arithmetic(x, 2.0, y) == a.sum()
    expected = np.concatenate([a * b + 2, a + 2, a * b, np.maximum(a, 2)])
    assert np.array_equal(y, expected)
    x[1] = np.nan
    assert np.isnan(_arithmetic(x, 2.0, y)) and np.isnan(y[3 * LANES + 1])


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_register_tile_is_a_matrix_product(depth):
    rng = np.random.default_rng(depth)
    a = rng.integers(-4, 5, (MR, depth)).astype(np.float32)
    b = rng.integers(-4, 5, (depth, NR * LANES)).astype(np.float32)
    y = np.zeros((MR, NR * LANES), np.float32)
    _tile_product(a, depth, b, y, depth)
    assert np.array_equal(y, a @ b + np.outer(a[:, 0], b[0]))


def test_tile_of_vectors_apart():
    y = np.zeros(2 * LANES, np.float32)
    _tile_apart(np.array([3, 7], np.float32), PLAIN, y)
    first, second = PLAIN[5 : 5 + LANES], PLAIN[5 + 3 * LANES : 5 + 4 * LANES]
    assert np.array_equal(y, np.concatenate([3 * second + 3, 7 * first + 7]))


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 9])
@pytest.mark.parametrize(("lo", "hi"), RANGES)
def test_tile_column_in_part(rows, lo, hi):
    a, y = np.array([1, 2, 3, 4], np.float32), np.full((6, LANES + 4), -1, np.float32)
    _tile_part(a, PLAIN, y, 2, LANES + 4, rows, lo, hi)
    expected = np.full_like(y, -1)
    for m in range(min(rows, 4)):
        expected[m, 2:-2] = np.where(lanes_in(lo, hi), a[m] * PLAIN[LANES : 2 * LANES], -1)
    assert np.array_equal(y, expected)


def test_table_fits_the_register_files():
    registers = {"avx512": 32, "neon": 32, "avx2": 16, "avx": 16, "sse2": 16}
    assert {isa.name for isa in tiles.TABLE} == set(registers)
    for isa in tiles.TABLE:
        assert isa.mr * isa.nr + isa.nr + 1 <= registers[isa.name]


def test_choice_by_features():
    names = [
        tiles.choose(set(found.split()), machine).name
        for found, machine in (
            ("sse2 avx avx2 fma avx512f avx512vl avx512dq", "x86_64-unknown-linux-gnu"),
            ("sse2 avx avx2 fma avx512f", "x86_64-unknown-linux-gnu"),
            ("sse2 avx", "x86_64-pc-windows-msvc"),
            ("", "x86_64-unknown-linux-gnu"),
            ("neon", "arm64-apple-darwin"),
        )
    ]
    assert names == ["avx512", "avx2", "avx", "sse2", "neon"]


def test_vectors_are_those_asked_for():
    assert os.environ.get(ASKED, tiles.ISA.name) == tiles.ISA.name


def command(isa):
    """The same tests in a process that compiles for a lesser CPU."""
    words = [sys.executable, "-m", "pytest", "-q", "-x", __file__, "-k", "not narrower"]
    return words, os.environ | TARGETS[isa] | {ASKED: isa}


@pytest.mark.parametrize("isa", NARROWER)
def test_on_narrower_vectors(finished):
    status, printed = finished
    assert status == 0, printed
