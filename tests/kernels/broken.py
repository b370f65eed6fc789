"""Deliberately broken kernels: each does one thing wrong, and names the check that must catch it.

All are made from ``right``, which is im2col and a matrix product, so nothing else is wrong with them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from convbench.case import Case
from convbench.checks import tolerance
from convbench.plugin import Implementation, Kernel
from convbench.spec import ConvSpec
from convbench_kernels.torch_ops import unfold

Run = Callable[..., Any]

# y has 36 bytes, and four more that malloc rounds up to: what a kernel may spoil without harm to the process.
TINY = Case(ConvSpec.create((1, 2, 3, 3), 1, 3, padding=1))
SAME = Case(ConvSpec.create((2, 6, 8, 9), 6, 3, padding=1, bias=True))
MILLION = Case(ConvSpec.create((1, 3, 1024, 1024), 1, 1))


@dataclass(frozen=True)
class Broken:
    """``check`` catches ``make``'s kernel on ``case``; with after=True only on fresh operands after timing."""

    check: str
    make: Callable[[Run, Case], Run]
    case: Case = SAME
    after: bool = False
    exact: bool = True

    def implementation(self) -> Implementation:
        return Implementation(
            "broken.kernel",
            supports=lambda case: "",
            build=lambda case: Kernel(self.make(unfold.run(case), case), "broken", exact=self.exact),
        )


def on_result(change: Callable[[torch.Tensor], Any]) -> Callable[[Run, Case], Run]:
    """Broken by what happens to the right result."""
    return lambda right, case: lambda *operands: change(right(*operands))


def on_operands(change: Callable[..., tuple[torch.Tensor, ...]]) -> Callable[[Run, Case], Run]:
    """Broken by what the right computation is given."""
    return lambda right, case: lambda *operands: right(*change(*operands))


def one_added(y: torch.Tensor, amount: float = 1.0) -> torch.Tensor:
    y[tuple(size // 2 for size in y.shape)] += amount
    return y


def one_nan(y: torch.Tensor) -> torch.Tensor:
    y[0, 0, 0, 0] = float("nan")
    return y


def partly_copied(skip: tuple) -> Callable[[torch.Tensor], torch.Tensor]:
    """Into new memory, all but the elements at ``skip``."""

    def copy(y: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(y.shape, dtype=torch.bool)
        mask[skip] = False
        return torch.where(mask, y, torch.empty(y.shape))

    return copy


def changes_input(x, w, bias):
    x[0, 0, 0, 0] += 1
    return x, w, bias


def writes_before_input(right: Run, case: Case) -> Run:
    def run(x, w, bias):
        if x.storage_offset():  # only where it does no harm
            x.as_strided((1,), (1,), x.storage_offset() - 1)[0] = 0
        return right(x, w, bias)

    return run


def reads_past_input(right: Run, case: Case) -> Run:
    def run(x, w, bias):
        if not x.storage_offset():
            return right(x, w, bias)
        shifted = x.as_strided(x.shape, x.stride(), x.storage_offset() + 1)  # off by one: its last element is outside
        return right(shifted, w, bias)

    return run


def writes_past_output(right: Run, case: Case) -> Run:
    def run(*operands):
        y = torch.empty(case.spec.y_shape)
        y.copy_(right(*operands))
        ctypes.memset(y.data_ptr() + y.numel() * y.element_size(), 1, 4)
        return y

    return run


def reuses_its_output(right: Run, case: Case) -> Run:
    buffer = torch.empty(case.spec.y_shape)
    return lambda *operands: buffer.copy_(right(*operands))


def answers_from_memory(right: Run, case: Case) -> Run:
    """Right as long as it is verified, then returns what it returned last."""
    answers: list[torch.Tensor] = []

    def run(*operands):
        if len(answers) < 4:
            answers.append(right(*operands))
        return answers[-1].clone()

    return run


def remembers_weights_by_address(right: Run, case: Case) -> Run:
    """Copies the weights it finds at an address once, as packing them outside the timing would."""
    packed: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def run(x, w, bias):
        _, copy = packed.setdefault(w.data_ptr(), (w, w.clone()))  # what it holds keeps its address
        return right(x, copy, bias)

    return run


def calls_torch(right: Run, case: Case) -> Run:
    return lambda x, w, bias: F.conv2d(x, w, bias, case.spec.stride, case.spec.padding)


def short_dtype(x, w, bias):
    """Small integers survive it, real numbers lose 16 bits."""
    return x.bfloat16().float(), w.bfloat16().float(), bias


def scaled_by(tolerances: float) -> Callable[[Run, Case], Run]:
    return lambda right, case: lambda *operands: right(*operands) * (1 + tolerances * tolerance(case))


KERNELS: dict[str, Broken] = {
    "wrong shape": Broken("result_type", on_result(lambda y: y[:, :, :-1].clone())),
    "wrong dtype": Broken("result_type", on_result(lambda y: y.double())),
    "numpy array": Broken("result_type", on_result(lambda y: y.numpy())),
    "nothing": Broken("result_type", on_result(lambda y: None)),
    "two tensors": Broken("result_type", on_result(lambda y: (y, y))),
    "other device": Broken("result_type", on_result(lambda y: y.to("meta"))),
    "changes its input": Broken("inputs_intact", on_operands(changes_input)),
    "writes before its input": Broken("inputs_intact", writes_before_input),
    "writes past its output": Broken("output_bounds", writes_past_output, TINY),
    "returns its input": Broken("new_memory", lambda right, case: lambda x, w, bias: x),
    "reuses its output": Broken("new_memory", reuses_its_output),
    "calls torch": Broken("no_fallback", calls_torch),
    "loses NaN": Broken("nan_propagates", on_operands(lambda x, w, bias: (x.nan_to_num(), w, bias))),
    "assumes no NaN": Broken("nan_propagates", on_result(lambda y: torch.where(y == y, y, 0.0))),
    "one element not written": Broken("written", on_result(partly_copied((1, 3, 4, 5)))),
    "last row not written": Broken("written", on_result(partly_copied((..., -1, slice(None))))),
    "one NaN": Broken("written", on_result(one_nan)),
    "reads past its input": Broken("written", reads_past_input),
    "one element wrong": Broken("exact", on_result(one_added)),
    "off by one row": Broken("exact", on_result(lambda y: y.roll(1, dims=2))),
    "channels exchanged": Broken("exact", on_result(lambda y: y.roll(1, dims=1))),
    "no bias": Broken("exact", on_operands(lambda x, w, bias: (x, w))),
    "kernel flipped": Broken("exact", on_operands(lambda x, w, bias: (x, w.flip(2, 3), bias))),
    "second image like the first": Broken("exact", on_operands(lambda x, w, bias: (x[:1].expand_as(x), w, bias))),
    "spreads NaN": Broken("exact", on_result(lambda y: y + 0 * y.sum())),
    "cached answer": Broken("error", answers_from_memory, after=True),
    "weights cached by address": Broken("error", remembers_weights_by_address, after=True),
    "bfloat16 inside": Broken("error", on_operands(short_dtype)),
    "rounded to integers": Broken("error", on_result(torch.round)),
    "just beyond the tolerance": Broken("error", scaled_by(1.1), exact=False),
    "one in a million slightly wrong": Broken(
        "largest_error", on_result(lambda y: one_added(y, 1e-4)), MILLION, exact=False
    ),
}


def _raises(error: Exception) -> Callable[[Run, Case], Run]:
    def run(*operands):
        raise error

    return lambda right, case: run


FAILING: dict[str, tuple[Broken, str, str]] = {
    "raises": (Broken("", _raises(ValueError("first line\n  second"))), "error", "ValueError: first line second"),
    "talks": (Broken("", _raises(TypeError("x" * 5000 + " the cause"))), "error", "TypeError: xxx"),
    "asserts": (Broken("", _raises(AssertionError())), "error", "AssertionError"),
    "no memory": (Broken("", _raises(MemoryError("12 GiB"))), "out_of_memory", "MemoryError: 12 GiB"),
    "no GPU memory": (Broken("", _raises(torch.OutOfMemoryError("CUDA"))), "out_of_memory", "OutOfMemoryError: CUDA"),
}  # fmt: skip
