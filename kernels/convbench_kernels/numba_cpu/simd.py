"""SIMD verbs for Numba kernels: the only file that knows LLVM.

Vectors and register tiles are ordinary values of a kernel: variables, arguments, loop-carried sums. LLVM
keeps them in registers (its SROA pass splits a tile into its vectors).

    v = load(x, i)                  x[i : i + LANES]             any contiguous float32 array, any ndim:
    prefetch(x, i)                  the cache line of x[i] will be read; may lie anywhere
    v = load_range(x, i, lo, hi)    lanes lo <= l < hi, others 0   i counts elements from its start
    v = load_stride2(x, i)          x[i], x[i + 2], ...          touches nothing beyond the last of them
    v = load_stride2_range(x, i, lo, hi)   its lanes lo <= l < hi, others 0
    v = gather(x, i, step, lo, hi)  x[i + l*step], lo <= l < hi
    a, b, c, d = load4(x, i)        a = x[i], x[i + 4], ...   b = x[i + 1], x[i + 5], ...   4*LANES elements in all
    v, w = zip2(a, b)               a0, b0, a1, b1, ...   2*LANES elements in all
    v = broadcast(s)                all lanes s
    store(x, i, v)    store_range(x, i, v, lo, hi)    scatter(x, i, step, v, lo, hi)
    v = fma(a, b, c)                a*b + c; fused where the CPU can (tiles.ISA.fma)
    v = merge(a, b, n)              the first n lanes of a, the others of b
    v = add(a, b)  sub(a, b)  mul(a, b)  maximum(a, b)   maximum gives a where a is NaN
    transpose(x, i, row, y, j, out)    y[j + a*out + b] = x[i + b*row + a] for a, b < LANES
    s = sum_lanes(v)                in pairs, a fixed order

    t = tile_zero(MR, NR)           MR x NR vectors (drawn in tiles.py); MR, NR: literals, module constants, or tuples
                                    of as many entries, so that one function serves every size
    t = tile_fma(t, a, i, row, b, j)   t[m][n] += a[i + m*row] * b[j + n*LANES : + LANES]
    t = tile_rows(MR, NR, s, i)     t[m][n] = s[i + m] in all lanes (a bias)
    t = tile_fma_at(t, a, i, row, b, j, (d0, d1, ...))   tile_fma with vector n at b[j + dn]: pixels apart
    o = offsets(MR, table, i)       MR integers of an int64 array, as a tuple
    t = tile_fma_rows(t, a, i, o, b, j)   tile_fma with row m at a[i + o[m]]: rows anywhere
    t = tile_dot(t, a, i, row_a, b, j, row_b)   t[m][n] += vector at a[i + m*row_a] * vector at b[j + n*row_b]
    tile_sums(t, y, i, row, added)     y[i + m*row + n] = sum_lanes(t[m][n]), or += where added
    t = tile_load(MR, NR, y, i, row)   t[m][n] = y[i + m*row + n*LANES : + LANES]
    tile_store(t, y, i, row)           the inverse
    t = tile_plus(t, y, i, row)        t[m][n] += y[i + m*row + n*LANES : + LANES]
    t = tile_least(t, s)            each element s at least, or NaN
    tile_store_range(t, n, y, i, row, rows, lo, hi)   column n alone: rows m < rows, lanes lo <= l < hi
    t = tile_mul_add(t, a, b)       t[m][n] = t[m][n]*a + b, vectors a and b: registers only
    v = tile_get(t, m, n)           one vector; m, n literals

Indices are element offsets, not checked: the kernel owns its edges. Lanes outside a range are never read
or written, so ranges are how a kernel stays inside its tensors. Loads and stores need no alignment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models, register_default
from numba.extending import intrinsic as _intrinsic

from convbench_kernels.numba_cpu.tiles import ISA, LANES

intrinsic: Any = _intrinsic  # untyped: a checker would ask callers for typingctx

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_VEC = ir.VectorType(_F32, LANES)
_VEC_I32 = ir.VectorType(_I32, LANES)
_VEC_I64 = ir.VectorType(ir.IntType(64), LANES)
_PTRS = ir.VectorType(_F32.as_pointer(), LANES)
_ALIGN = 4  # any float address: without it LLVM emits aligned moves that fault
_NAME = f"v{LANES}f32"


class Vector(types.Type):
    """LANES float32 in one register."""

    def __init__(self) -> None:
        super().__init__(name=f"f32x{LANES}")


class Tile(types.Type):
    """rows x columns vectors in registers."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        super().__init__(name=f"tile{rows}x{columns}xf32x{LANES}")


VECTOR = Vector()


@register_default(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, _VEC)


@register_default(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, ir.ArrayType(_VEC, fe_type.rows * fe_type.columns))


# Pieces of LLVM IR -------------------------------------------------------------------------------


def _is_array(*operands: Any) -> bool:
    return all(isinstance(o, types.Array) and o.dtype == types.float32 and o.layout == "C" for o in operands)


def _base(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    """Pointer to an array's first element."""
    return context.make_array(array_type)(context, builder, array).data


def _load(builder: Any, base: Any, index: Any) -> Any:
    return builder.load(builder.bitcast(builder.gep(base, [index]), _VEC.as_pointer()), align=_ALIGN)


def _store(builder: Any, base: Any, index: Any, vector: Any) -> None:
    builder.store(vector, builder.bitcast(builder.gep(base, [index]), _VEC.as_pointer()), align=_ALIGN)


def _splat(builder: Any, scalar: Any, vector_type: Any = _VEC) -> Any:
    one = builder.insert_element(ir.Constant(vector_type, ir.Undefined), scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, one, ir.Constant(_VEC_I32, [0] * LANES))


def _mask(builder: Any, lo: Any, hi: Any) -> Any:
    """Lanes lo <= lane < hi."""
    iota = ir.Constant(_VEC_I64, list(range(LANES)))
    above = builder.icmp_signed(">=", iota, _splat(builder, lo, _VEC_I64))
    return builder.and_(above, builder.icmp_signed("<", iota, _splat(builder, hi, _VEC_I64)))


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    signature = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    if ISA.fma:
        return _call(builder, f"llvm.fma.{_NAME}", _VEC, a, b, c)
    return builder.fadd(builder.fmul(a, b), c)


def _load_range(builder: Any, base: Any, index: Any, lo: Any, hi: Any) -> Any:
    pointer = builder.bitcast(builder.gep(base, [index]), _VEC.as_pointer())
    mask, zero = _mask(builder, lo, hi), ir.Constant(_VEC, None)
    return _call(builder, f"llvm.masked.load.{_NAME}.p0", _VEC, pointer, ir.Constant(_I32, _ALIGN), mask, zero)


def _store_range(builder: Any, base: Any, index: Any, vector: Any, mask: Any) -> None:
    pointer = builder.bitcast(builder.gep(base, [index]), _VEC.as_pointer())
    _call(builder, f"llvm.masked.store.{_NAME}.p0", ir.VoidType(), vector, pointer, ir.Constant(_I32, _ALIGN), mask)


def _offset(builder: Any, index: Any, row: Any, m: int, n: int) -> Any:
    """index + m*row + n*LANES"""
    i64 = index.type
    at = builder.add(index, builder.mul(row, ir.Constant(i64, m))) if m else index
    return builder.add(at, ir.Constant(i64, n * LANES)) if n else at


def _strided(builder: Any, base: Any, index: Any, step: Any) -> Any:
    """Pointers to base[index + lane*step]."""
    lanes = builder.mul(ir.Constant(_VEC_I64, list(range(LANES))), _splat(builder, step, _VEC_I64))
    offsets = builder.add(_splat(builder, index, _VEC_I64), lanes)
    pointers: Any = ir.Constant(_PTRS, ir.Undefined)
    for lane in range(LANES):
        pointer = builder.gep(base, [builder.extract_element(offsets, ir.Constant(_I32, lane))])
        pointers = builder.insert_element(pointers, pointer, ir.Constant(_I32, lane))
    return pointers


# Vectors -----------------------------------------------------------------------------------------


@intrinsic
def load(typingctx, x, i):
    def codegen(context, builder, signature, args):
        return _load(builder, _base(context, builder, signature.args[0], args[0]), args[1])

    return (VECTOR(x, types.intp), codegen) if _is_array(x) else None


@intrinsic
def prefetch(typingctx, x, i):
    def codegen(context, builder, signature, args):
        pointer = builder.gep(_base(context, builder, signature.args[0], args[0]), [args[1]])
        pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
        read, near, data = (ir.Constant(_I32, value) for value in (0, 3, 1))
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, read, near, data)
        return context.get_dummy_value()

    return (types.void(x, types.intp), codegen) if _is_array(x) else None


@intrinsic
def load_range(typingctx, x, i, lo, hi):
    def codegen(context, builder, signature, args):
        return _load_range(builder, _base(context, builder, signature.args[0], args[0]), *args[1:])

    return (VECTOR(x, types.intp, types.intp, types.intp), codegen) if _is_array(x) else None


_EVEN = [2 * lane for lane in range(LANES // 2)] + [LANES + 1 + 2 * lane for lane in range(LANES // 2)]


@intrinsic
def load_stride2(typingctx, x, i):
    def codegen(context, builder, signature, args):
        base = _base(context, builder, signature.args[0], args[0])
        low = _load(builder, base, args[1])
        high = _load(builder, base, builder.add(args[1], ir.Constant(args[1].type, LANES - 1)))
        return builder.shuffle_vector(low, high, ir.Constant(_VEC_I32, _EVEN))

    return (VECTOR(x, types.intp), codegen) if _is_array(x) else None


@intrinsic
def load_stride2_range(typingctx, x, i, lo, hi):
    def codegen(context, builder, signature, args):
        base = _base(context, builder, signature.args[0], args[0])
        _, i, lo, hi = args
        one = ir.Constant(i.type, 1)
        first, end = builder.shl(lo, one), builder.sub(builder.shl(hi, one), one)  # elements in place of lanes
        halves = []
        for start in (0, LANES - 1):
            shift = ir.Constant(i.type, start)
            lanes = builder.sub(first, shift), builder.sub(end, shift)
            halves.append(_load_range(builder, base, builder.add(i, shift), *lanes))
        return builder.shuffle_vector(*halves, ir.Constant(_VEC_I32, _EVEN))

    return (VECTOR(x, types.intp, types.intp, types.intp), codegen) if _is_array(x) else None


@intrinsic
def gather(typingctx, x, i, step, lo, hi):
    def codegen(context, builder, signature, args):
        pointers = _strided(builder, _base(context, builder, signature.args[0], args[0]), args[1], args[2])
        mask, zero = _mask(builder, args[3], args[4]), ir.Constant(_VEC, None)
        name = f"llvm.masked.gather.{_NAME}.v{LANES}p0"
        return _call(builder, name, _VEC, pointers, ir.Constant(_I32, _ALIGN), mask, zero)

    return (VECTOR(x, *[types.intp] * 4), codegen) if _is_array(x) else None


@intrinsic
def scatter(typingctx, x, i, step, v, lo, hi):
    def codegen(context, builder, signature, args):
        pointers = _strided(builder, _base(context, builder, signature.args[0], args[0]), args[1], args[2])
        mask = _mask(builder, args[4], args[5])
        name = f"llvm.masked.scatter.{_NAME}.v{LANES}p0"
        _call(builder, name, ir.VoidType(), args[3], pointers, ir.Constant(_I32, _ALIGN), mask)
        return context.get_dummy_value()

    return (types.void(x, types.intp, types.intp, VECTOR, types.intp, types.intp), codegen) if _is_array(x) else None


def _shuffle(builder: Any, two: Sequence[Any], lanes: list[int]) -> Any:
    return builder.shuffle_vector(*two, ir.Constant(_VEC_I32, lanes))


@intrinsic
def load4(typingctx, x, i):
    def codegen(context, builder, signature, args):
        base = _base(context, builder, signature.args[0], args[0])
        loaded = [_load(builder, base, _offset(builder, args[1], args[1], 0, n)) for n in range(4)]
        even, odd = list(range(0, 2 * LANES, 2)), list(range(1, 2 * LANES, 2))
        halves = [_shuffle(builder, loaded[n : n + 2], lanes) for lanes in (even, odd) for n in (0, 2)]
        parts = [_shuffle(builder, halves[n : n + 2], lanes) for lanes in (even, odd) for n in (0, 2)]
        return context.make_tuple(builder, signature.return_type, parts)

    return (types.UniTuple(VECTOR, 4)(x, types.intp), codegen) if _is_array(x) else None


@intrinsic
def zip2(typingctx, a, b):
    def codegen(context, builder, signature, args):
        low = [lane // 2 + lane % 2 * LANES for lane in range(LANES)]
        high = [lane + LANES // 2 for lane in low]
        parts = [_shuffle(builder, args, lanes) for lanes in (low, high)]
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(VECTOR, 2)(VECTOR, VECTOR), codegen


@intrinsic
def broadcast(typingctx, s):
    def codegen(context, builder, signature, args):
        return _splat(builder, args[0])

    return VECTOR(types.float32), codegen


@intrinsic
def store(typingctx, x, i, v):
    def codegen(context, builder, signature, args):
        _store(builder, _base(context, builder, signature.args[0], args[0]), args[1], args[2])
        return context.get_dummy_value()

    return (types.void(x, types.intp, VECTOR), codegen) if _is_array(x) else None


@intrinsic
def store_range(typingctx, x, i, v, lo, hi):
    def codegen(context, builder, signature, args):
        base = _base(context, builder, signature.args[0], args[0])
        _store_range(builder, base, args[1], args[2], _mask(builder, args[3], args[4]))
        return context.get_dummy_value()

    return (types.void(x, types.intp, VECTOR, types.intp, types.intp), codegen) if _is_array(x) else None


@intrinsic
def fma(typingctx, a, b, c):
    def codegen(context, builder, signature, args):
        return _fma(builder, *args)

    return VECTOR(VECTOR, VECTOR, VECTOR), codegen


@intrinsic
def add(typingctx, a, b):
    def codegen(context, builder, signature, args):
        return builder.fadd(*args)

    return VECTOR(VECTOR, VECTOR), codegen


@intrinsic
def sub(typingctx, a, b):
    def codegen(context, builder, signature, args):
        return builder.fsub(*args)

    return VECTOR(VECTOR, VECTOR), codegen


@intrinsic
def mul(typingctx, a, b):
    def codegen(context, builder, signature, args):
        return builder.fmul(*args)

    return VECTOR(VECTOR, VECTOR), codegen


def _maximum(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", b, a), b, a)  # one instruction


@intrinsic
def maximum(typingctx, a, b):
    def codegen(context, builder, signature, args):
        return _maximum(builder, *args)

    return VECTOR(VECTOR, VECTOR), codegen


@intrinsic
def merge(typingctx, a, b, n):
    def codegen(context, builder, signature, args):
        return builder.select(_mask(builder, ir.Constant(args[2].type, 0), args[2]), *args[:2])

    return VECTOR(VECTOR, VECTOR, types.intp), codegen


def _sum_lanes(builder: Any, vector: Any) -> Any:
    width = LANES
    while width > 1:
        width //= 2
        half = ir.Constant(_VEC_I32, [(lane + width) % LANES for lane in range(LANES)])
        vector = builder.fadd(vector, builder.shuffle_vector(vector, vector, half))
    return builder.extract_element(vector, ir.Constant(_I32, 0))


@intrinsic
def sum_lanes(typingctx, v):
    return types.float32(VECTOR), lambda context, builder, signature, args: _sum_lanes(builder, args[0])


@intrinsic
def transpose(typingctx, x, i, row, y, j, out):
    def codegen(context, builder, signature, args):
        _, i, row, _, j, out = args
        source, target = (_base(context, builder, signature.args[n], args[n]) for n in (0, 3))
        vectors = [_load(builder, source, _offset(builder, i, row, m, 0)) for m in range(LANES)]
        width = LANES // 2
        while width:  # exchange the off-diagonal quarters, then those of the quarters (Eklundh 1972)
            low = [lane if not lane & width else LANES + lane - width for lane in range(LANES)]
            high = [lane + width if not lane & width else LANES + lane for lane in range(LANES)]
            for m in (m for m in range(LANES) if not m & width):
                a, b = vectors[m], vectors[m + width]
                vectors[m] = builder.shuffle_vector(a, b, ir.Constant(_VEC_I32, low))
                vectors[m + width] = builder.shuffle_vector(a, b, ir.Constant(_VEC_I32, high))
            width //= 2
        for m, vector in enumerate(vectors):
            _store(builder, target, _offset(builder, j, out, m, 0), vector)
        return context.get_dummy_value()

    return (types.void(x, types.intp, types.intp, y, types.intp, types.intp), codegen) if _is_array(x, y) else None


# Register tiles ----------------------------------------------------------------------------------


def _tile(mr: Any, nr: Any) -> Tile:
    """Tile of literal sizes; each may be a tuple, of as many entries."""
    mr, nr = (n.count if isinstance(n, types.Tuple | types.UniTuple) else n.literal_value for n in (mr, nr))
    return Tile(mr, nr)


@intrinsic(prefer_literal=True)
def tile_zero(typingctx, mr, nr):
    tile = _tile(mr, nr)

    def codegen(context, builder, signature, args):
        return ir.Constant(ir.ArrayType(_VEC, tile.rows * tile.columns), None)

    return tile(mr, nr), codegen


@intrinsic(prefer_literal=True)
def tile_rows(typingctx, mr, nr, s, i):
    tile = _tile(mr, nr)

    def codegen(context, builder, signature, args):
        base = _base(context, builder, signature.args[2], args[2])
        sums: Any = ir.Constant(ir.ArrayType(_VEC, tile.rows * tile.columns), None)
        for m in range(tile.rows):
            at = builder.add(args[3], ir.Constant(args[3].type, m))
            row = _splat(builder, builder.load(builder.gep(base, [at]), align=_ALIGN))
            for n in range(tile.columns):
                sums = builder.insert_value(sums, row, m * tile.columns + n)
        return sums

    return (tile(mr, nr, s, types.intp), codegen) if _is_array(s) else None


def _pin(builder: Any, vector: Any) -> Any:
    """The sum `vector` in the register that it was in: an empty piece of assembly, above which no later load moves.

    Otherwise LLVM loads all weights of a tile first and spills sums to make room: half the speed."""
    register = "w" if ISA.name == "neon" else "v"
    return builder.asm(ir.FunctionType(_VEC, [_VEC]), "", f"={register},0,~{{memory}}", [vector], True)


def _rank1(builder: Any, tile: Tile, sums: Any, a: Any, rows: list[Any], vectors: list[Any]) -> Any:
    for m, row in enumerate(rows):
        weight = _splat(builder, builder.load(builder.gep(a, [row]), align=_ALIGN))
        for n, vector in enumerate(vectors):
            at = m * tile.columns + n
            product = _fma(builder, weight, vector, builder.extract_value(sums, at))
            sums = builder.insert_value(sums, _pin(builder, product), at)
    return sums


@intrinsic
def tile_fma(typingctx, t, a, i, row, b, j):
    def codegen(context, builder, signature, args):
        sums, _, i, row, _, j = args
        a, b = (_base(context, builder, signature.args[n], args[n]) for n in (1, 4))
        vectors = [_load(builder, b, _offset(builder, j, j, 0, n)) for n in range(t.columns)]
        return _rank1(builder, t, sums, a, [_offset(builder, i, row, m, 0) for m in range(t.rows)], vectors)

    valid = isinstance(t, Tile) and _is_array(a, b)
    return (t(t, a, types.intp, types.intp, b, types.intp), codegen) if valid else None


@intrinsic
def tile_fma_at(typingctx, t, a, i, row, b, j, apart):
    def codegen(context, builder, signature, args):
        sums, _, i, row, _, j, apart = args
        a, b = (_base(context, builder, signature.args[n], args[n]) for n in (1, 4))
        b = builder.gep(b, [j])
        vectors = [_load(builder, b, builder.extract_value(apart, n)) for n in range(t.columns)]
        return _rank1(builder, t, sums, a, [_offset(builder, i, row, m, 0) for m in range(t.rows)], vectors)

    valid = isinstance(t, Tile) and _is_array(a, b)
    if not valid:
        return None
    return t(t, a, types.intp, types.intp, b, types.intp, types.UniTuple(types.intp, t.columns)), codegen


@intrinsic(prefer_literal=True)
def offsets(typingctx, mr, table, i):
    count = mr.literal_value

    def codegen(context, builder, signature, args):
        base = _base(context, builder, signature.args[1], args[1])
        found: Any = ir.Constant(ir.ArrayType(ir.IntType(64), count), None)
        for m in range(count):
            at = builder.add(args[2], ir.Constant(args[2].type, m))
            found = builder.insert_value(found, builder.load(builder.gep(base, [at])), m)
        return found

    valid = isinstance(table, types.Array) and table.dtype == types.int64 and table.layout == "C"
    return (types.UniTuple(types.int64, count)(mr, table, types.intp), codegen) if valid else None


@intrinsic
def tile_fma_rows(typingctx, t, a, i, rows, b, j):
    def codegen(context, builder, signature, args):
        sums, _, i, rows, _, j = args
        a, b = (_base(context, builder, signature.args[n], args[n]) for n in (1, 4))
        vectors = [_load(builder, b, _offset(builder, j, j, 0, n)) for n in range(t.columns)]
        return _rank1(builder, t, sums, builder.gep(a, [i]), [builder.extract_value(rows, m) for m in range(t.rows)],
                      vectors)  # fmt: skip

    valid = isinstance(t, Tile) and _is_array(a, b)
    if not valid:
        return None
    return t(t, a, types.intp, types.UniTuple(types.int64, t.rows), b, types.intp), codegen


@intrinsic
def tile_dot(typingctx, t, a, i, row_a, b, j, row_b):
    def codegen(context, builder, signature, args):
        sums, _, i, row_a, _, j, row_b = args
        a, b = (_base(context, builder, signature.args[n], args[n]) for n in (1, 4))
        vectors = [_load(builder, b, _offset(builder, j, row_b, n, 0)) for n in range(t.columns)]
        for m in range(t.rows):
            row = _load(builder, a, _offset(builder, i, row_a, m, 0))
            for n, vector in enumerate(vectors):
                at = m * t.columns + n
                product = _fma(builder, row, vector, builder.extract_value(sums, at))
                sums = builder.insert_value(sums, _pin(builder, product), at)
        return sums

    valid = isinstance(t, Tile) and _is_array(a, b)
    return (t(t, a, types.intp, types.intp, b, types.intp, types.intp), codegen) if valid else None


def _add_halves(builder: Any, vectors: Sequence[Any], size: int) -> Any:
    """Of one or two vectors' blocks of `size` lanes, their first halves plus their second halves."""
    lanes = [lane for lane in range(len(vectors) * vectors[0].type.count) if lane % size < size // 2]
    first, second = (ir.Constant(ir.VectorType(_I32, len(lanes)), at) for at in (lanes, [n + size // 2 for n in lanes]))
    pair = vectors[0], vectors[-1]
    return builder.fadd(builder.shuffle_vector(*pair, first), builder.shuffle_vector(*pair, second))


def _sums_of_lanes(builder: Any, vectors: list[Any]) -> Any:
    """A vector of each vector's sum; of 1, 2 or 4 vectors, merged while they are added up."""
    size, count = LANES, len(vectors)
    while size > LANES // count:
        vectors = [_add_halves(builder, pair, size) for pair in zip(vectors[::2], vectors[1::2], strict=True)]
        size //= 2
    while size > 1:
        vectors = [_add_halves(builder, vectors, size)]
        size //= 2
    return vectors[0]


@intrinsic
def tile_sums(typingctx, t, y, i, row, added):
    def codegen(context, builder, signature, args):
        sums, _, i, row, added = args
        base, kind = _base(context, builder, signature.args[1], args[1]), ir.VectorType(_F32, t.columns)
        for m in range(t.rows):
            vectors = [builder.extract_value(sums, m * t.columns + n) for n in range(t.columns)]
            at = builder.bitcast(builder.gep(base, [_offset(builder, i, row, m, 0)]), kind.as_pointer())
            before = builder.select(added, builder.load(at, align=_ALIGN), ir.Constant(kind, None))
            builder.store(builder.fadd(before, _sums_of_lanes(builder, vectors)), at, align=_ALIGN)
        return context.get_dummy_value()

    valid = isinstance(t, Tile) and _is_array(y)
    return (types.void(t, y, types.intp, types.intp, types.boolean), codegen) if valid else None


@intrinsic(prefer_literal=True)
def tile_load(typingctx, mr, nr, y, i, row):
    tile = Tile(mr.literal_value, nr.literal_value)

    def codegen(context, builder, signature, args):
        _, _, _, i, row = args
        base = _base(context, builder, signature.args[2], args[2])
        sums: Any = ir.Constant(ir.ArrayType(_VEC, tile.rows * tile.columns), None)
        for m in range(tile.rows):
            for n in range(tile.columns):
                vector = _load(builder, base, _offset(builder, i, row, m, n))
                sums = builder.insert_value(sums, vector, m * tile.columns + n)
        return sums

    return (tile(mr, nr, y, types.intp, types.intp), codegen) if _is_array(y) else None


@intrinsic
def tile_store(typingctx, t, y, i, row):
    def codegen(context, builder, signature, args):
        sums, _, i, row = args
        base = _base(context, builder, signature.args[1], args[1])
        for m in range(t.rows):
            for n in range(t.columns):
                vector = builder.extract_value(sums, m * t.columns + n)
                _store(builder, base, _offset(builder, i, row, m, n), vector)
        return context.get_dummy_value()

    valid = isinstance(t, Tile) and _is_array(y)
    return (types.void(t, y, types.intp, types.intp), codegen) if valid else None


@intrinsic
def tile_plus(typingctx, t, y, i, row):
    def codegen(context, builder, signature, args):
        sums, _, i, row = args
        base = _base(context, builder, signature.args[1], args[1])
        for m in range(t.rows):
            for n in range(t.columns):
                at = m * t.columns + n
                before = _load(builder, base, _offset(builder, i, row, m, n))
                sums = builder.insert_value(sums, builder.fadd(before, builder.extract_value(sums, at)), at)
        return sums

    valid = isinstance(t, Tile) and _is_array(y)
    return (t(t, y, types.intp, types.intp), codegen) if valid else None


@intrinsic
def tile_least(typingctx, t, s):
    def codegen(context, builder, signature, args):
        sums, least = args[0], _splat(builder, args[1])
        for at in range(t.rows * t.columns):
            sums = builder.insert_value(sums, _maximum(builder, builder.extract_value(sums, at), least), at)
        return sums

    return (t(t, types.float32), codegen) if isinstance(t, Tile) else None


@intrinsic(prefer_literal=True)
def tile_store_range(typingctx, t, n, y, i, row, rows, lo, hi):
    column = n.literal_value if isinstance(n, types.IntegerLiteral) else None

    def codegen(context, builder, signature, args):
        sums, _, _, i, row, rows, lo, hi = args
        base = _base(context, builder, signature.args[2], args[2])
        mask = _mask(builder, lo, hi)
        for m in range(t.rows):
            with builder.if_then(builder.icmp_signed("<", ir.Constant(rows.type, m), rows)):
                vector = builder.extract_value(sums, m * t.columns + column)
                _store_range(builder, base, _offset(builder, i, row, m, 0), vector, mask)
        return context.get_dummy_value()

    valid = isinstance(t, Tile) and _is_array(y) and column is not None
    return (types.void(t, n, y, *[types.intp] * 5), codegen) if valid else None


@intrinsic
def tile_mul_add(typingctx, t, a, b):
    def codegen(context, builder, signature, args):
        sums, a, b = args
        for at in range(t.rows * t.columns):
            sums = builder.insert_value(sums, _fma(builder, builder.extract_value(sums, at), a, b), at)
        return sums

    return (t(t, VECTOR, VECTOR), codegen) if isinstance(t, Tile) else None


@intrinsic(prefer_literal=True)
def tile_get(typingctx, t, m, n):
    def codegen(context, builder, signature, args):
        return builder.extract_value(args[0], m.literal_value * t.columns + n.literal_value)

    return (VECTOR(t, m, n), codegen) if isinstance(t, Tile) else None
