"""Kernels on torch's own threads: parallel(threads, share, operands) inside a kernel.

Numba's prange brings a second pool of threads. In a model, where torch's layers and ours take turns, each pool's idle
threads then spin on the cores that the other one needs, and sleep when their turn comes. Here the one pool is torch's:
GNU OpenMP's entry point, which LLVM's and Intel's runtimes offer as well. A share is an ordinary kernel, so that
nothing is compiled a second time for threads.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from typing import Any

import llvmlite.binding as llvm
import torch
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as _intrinsic

intrinsic: Any = _intrinsic

_VOID, _I32, _I64, _ADDRESS = ir.VoidType(), ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()
_SHARE = ir.FunctionType(_VOID, [_ADDRESS])
_SYMBOLS = {
    "GOMP_parallel": ir.FunctionType(_VOID, [_SHARE.as_pointer(), _ADDRESS, _I32, _I32]),
    "omp_get_thread_num": ir.FunctionType(_I32, []),
    "omp_get_num_threads": ir.FunctionType(_I32, []),
}


def _link() -> bool:
    """Tell the linker where torch's OpenMP runtime is; False without one."""
    try:
        runtime = ctypes.CDLL(None)
        found = [getattr(runtime, name) for name in _SYMBOLS]
    except (AttributeError, OSError, TypeError):
        found = [ctypes.pythonapi.Py_FatalError] * len(_SYMBOLS)  # never called: there is one thread
    for name, function in zip(_SYMBOLS, found, strict=True):
        llvm.add_symbol(f"convbench_{name}", ctypes.cast(function, ctypes.c_void_p).value)
    return found[0] is not ctypes.pythonapi.Py_FatalError


_available = _link()
_forked = False


def most_threads() -> int:
    """As many as torch may use; one without its runtime, which is said, and in a forked process, which has none."""
    if not _available:
        warnings.warn("torch's OpenMP runtime has no GOMP_parallel: Numba kernels run on one thread", stacklevel=2)
    return torch.get_num_threads() if _available and not _forked else 1


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def _runtime(builder: Any, name: str, *arguments: Any) -> Any:
    function = cgutils.get_or_insert_function(builder.module, _SYMBOLS[name], f"convbench_{name}")
    return builder.call(function, arguments)


@intrinsic
def parallel(typingctx, threads, share, operands):
    """share(*operands, thread, threads) for each thread in range(threads); returns when all are done.

    A share may raise nothing. Where the runtime gives fewer threads than asked for (inside another parallel region),
    they do all shares between them.
    """
    counted = (*operands.types, types.int64, types.int64)
    share.get_call_type(typingctx, counted, {})  # which compiles it

    def codegen(context, builder, signature, args):
        compiled = share.dispatcher.overloads[counted]
        packed = ir.LiteralStructType([args[2].type, _I64])
        context.add_linking_libs((compiled.library,))

        def call(builder, values, thread, count):
            function = context.declare_function(builder.module, compiled.fndesc)
            unpacked = cgutils.unpack_tuple(builder, values)
            context.call_conv.call_function(builder, function, types.void, counted, [*unpacked, thread, count])

        def entry() -> ir.Function:
            name = builder.module.get_unique_name("convbench_share")
            function = ir.Function(builder.module, _SHARE, name)
            function.linkage = "internal"
            inner = ir.IRBuilder(function.append_basic_block())
            data = inner.load(inner.bitcast(function.args[0], packed.as_pointer()))
            values, count = inner.extract_value(data, 0), inner.extract_value(data, 1)
            first = inner.zext(_runtime(inner, "omp_get_thread_num"), _I64)
            step = inner.zext(_runtime(inner, "omp_get_num_threads"), _I64)
            with cgutils.for_range_slice(inner, first, count, step, _I64) as (thread, _):
                call(inner, values, thread, count)
            inner.ret_void()
            return function

        count = context.cast(builder, args[0], signature.args[0], types.int64)
        with builder.if_else(builder.icmp_signed(">", count, _I64(1))) as (several, one):
            with several:
                slot = cgutils.alloca_once(builder, packed)
                builder.store(args[2], cgutils.gep_inbounds(builder, slot, 0, 0))
                builder.store(count, cgutils.gep_inbounds(builder, slot, 0, 1))
                data, number = builder.bitcast(slot, _ADDRESS), builder.trunc(count, _I32)
                _runtime(builder, "GOMP_parallel", entry(), data, number, _I32(0))
            with one:
                call(builder, args[2], _I64(0), _I64(1))
        return context.get_dummy_value()

    return types.void(threads, share, operands), codegen
