"""How tensors and tables reach a kernel: as addresses.

Unboxing a tensor's array and a plan of forty integers costs Numba's dispatcher 15 us, as much as a small layer takes.
An address is one integer: a launch with ten of them takes 1 us. Whoever holds Addresses keeps the tables alive.

    Python                                in the kernel
    dense(tensor).data_ptr()              floats(address)                 float32 array, one dimension
    addresses(array, ...)                 integers(address, count)        int64 array
                                          table(address, rows, columns)   int64 array, two dimensions
    addresses(integers_of(g))             record(Geometry, address)       the NamedTuple of integers again

Arrays made of addresses have no known length: the kernel owns its edges.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as _intrinsic
from numba.np.arrayobj import populate_array

intrinsic: Any = _intrinsic

_I64 = ir.IntType(64)
_CPU = torch.device("cpu")
_UNKNOWN = 2**48  # more than any array has


class Addresses(tuple[int, ...]):
    """Arguments of a kernel: integers, and addresses of arrays that live as long as this does."""

    arrays: tuple[np.ndarray, ...]


def addresses(*values: np.ndarray | int) -> Addresses:
    """Each array by where its elements begin."""
    found = Addresses(v if isinstance(v, int) else int(v.ctypes.data) for v in values)
    found.arrays = tuple(v for v in values if isinstance(v, np.ndarray))
    assert all(array.flags.c_contiguous for array in found.arrays)
    return found


def integers_of(values: Iterable[int]) -> np.ndarray:
    """A NamedTuple of integers as record() reads it."""
    return np.array(tuple(values), np.int64)


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """The float32 tensor, or a contiguous copy: kernels take its address on trust."""
    if tensor.dtype is not torch.float32:
        raise TypeError(f"{tensor.dtype}: expected float32")
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def new(*shape: int) -> torch.Tensor:
    """A float32 tensor to be written, whatever torch's default type and device are: kernels write to its address."""
    return torch.empty(shape, dtype=torch.float32, device=_CPU)


def zeros(*shape: int) -> torch.Tensor:
    """As new(), of zeros."""
    return torch.zeros(shape, dtype=torch.float32, device=_CPU)


def least(relu: bool) -> float:
    """The least value that a kernel lets an output have."""
    return 0.0 if relu else -math.inf


def padded(tensor: torch.Tensor, rows: int, width: int) -> torch.Tensor:
    """The tensor's elements in rows of that width, zeros behind each; itself where nothing is missing."""
    missing = width - tensor.numel() // rows
    return dense(torch.constant_pad_nd(tensor.reshape(rows, -1), (0, missing)) if missing else tensor)


def _array(context: Any, builder: Any, array_type: Any, where: Any, shape: list[Any]) -> Any:
    size = context.get_abi_sizeof(context.get_data_type(array_type.dtype))
    array = context.make_array(array_type)(context, builder)
    strides = [ir.Constant(_I64, size)]
    for extent in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], extent))
    data = builder.inttoptr(where, context.get_data_type(array_type.dtype).as_pointer())
    shape, strides = (cgutils.pack_array(builder, values) for values in (shape, strides))
    populate_array(array, data=data, shape=shape, strides=strides, itemsize=ir.Constant(_I64, size), meminfo=None)
    return array._getvalue()


@intrinsic
def floats(typingctx, where):
    array_type = types.Array(types.float32, 1, "C")

    def codegen(context, builder, signature, args):
        return _array(context, builder, array_type, args[0], [ir.Constant(_I64, _UNKNOWN)])

    return array_type(types.int64), codegen


@intrinsic
def integers(typingctx, where, count):
    array_type = types.Array(types.int64, 1, "C")

    def codegen(context, builder, signature, args):
        return _array(context, builder, array_type, args[0], [args[1]])

    return array_type(types.int64, types.int64), codegen


@intrinsic
def table(typingctx, where, rows, columns):
    array_type = types.Array(types.int64, 2, "C")

    def codegen(context, builder, signature, args):
        return _array(context, builder, array_type, args[0], list(args[1:]))

    return array_type(types.int64, types.int64, types.int64), codegen


@intrinsic
def record(typingctx, kind, where):
    cls = kind.instance_class
    fields = types.NamedUniTuple(types.int64, len(cls._fields), cls)

    def codegen(context, builder, signature, args):
        base = builder.inttoptr(args[1], _I64.as_pointer())
        values = [builder.load(builder.gep(base, [ir.Constant(_I64, n)])) for n in range(len(cls._fields))]
        return context.make_tuple(builder, fields, values)

    return fields(kind, types.int64), codegen
