"""A plug-in of hostile kernels, installed for a test: each implementation does one thing wrong."""

from __future__ import annotations

import os
import signal
import sys
import time

import torch

from convbench.plugin import Implementation, Kernel


def segfault(right):
    import ctypes

    return lambda x, w: ctypes.string_at(0)


def hangs_when_timed(right):
    calls = []

    def run(x, w):
        calls.append(1)
        while len(calls) > 10:
            time.sleep(1)
        return right(x, w)

    return run


def allocate(right):
    def run(x, w):
        kept = []
        while True:
            kept.append(torch.ones(2**24))

    return run


def flood(right):
    def run(x, w):
        os.write(1, b"flood\n" * 10_000)
        print("flood" * 10_000)
        os.write(2, b"flood\n" * 10_000)
        return right(x, w)

    return run


def fork(right):
    def run(x, w):
        os.fork()
        return right(x, w)

    return run


def by_values(right):
    """Right for the integers of the first trials, lazy for anything else."""
    return lambda x, w: right(x, w) if bool((x == x.round()).all()) else torch.zeros(1, 3, 4, 4)


def cached(right):
    answers = {}
    return lambda x, w: answers.setdefault(x.data_ptr(), (x, right(x, w)))[1].clone()


def cached_by_fingerprint(right):
    """Recomputes where the data looks new: another address, first element, or sum."""
    answers = {}

    def run(x, w):
        looks = (
            x.data_ptr(),
            *(round(float(value), 3) for t in (x, w) for value in (t.flatten()[0], t.double().sum())),
        )
        return answers.setdefault(looks, right(x, w) if looks not in answers else None).clone()

    return run


def changes_conditions(right):
    """So that those who come after it are slow: one thread, and another folder."""

    def run(x, w):
        torch.set_num_threads(1)
        os.chdir("/")
        return right(x, w)

    return run


def lying(right):
    """A tensor that says of itself that it equals what it is compared with."""

    class Liar(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if func.__name__ == "equal":
                return True
            out = super().__torch_function__(func, types, args, kwargs or {})
            return out * 0 if func.__name__ == "sub_" else out

    return lambda x, w: (2 * right(x, w)).as_subclass(Liar)


def leaves_an_alarm(right):
    def run(x, w):
        signal.alarm(1)
        return right(x, w)

    return run


class Mute(Exception):
    def __str__(self):
        raise RuntimeError


def raises_what_cannot_be_shown(right):
    def run(x, w):
        raise Mute

    return run


def writes_earlier_output(right):
    kept = []

    def run(x, w):
        for y in kept:
            y.zero_()
        kept.append(right(x, w))
        return kept[-1]

    return run


def writes_earlier_input(right):
    kept = []

    def run(x, w):
        for earlier in kept:
            if earlier.data_ptr() != x.data_ptr():
                earlier.zero_()
        kept.append(x)
        return right(x, w)

    return run


def writes_past_input(right):
    def run(x, w):
        if x.storage_offset():
            x.as_strided((1,), (1,), x.storage_offset() + x.numel())[0] = 0
        return right(x, w)

    return run


def exits(leave):
    return lambda right: lambda x, w: leave(3)


def mutates(right):
    return lambda x, w: right(x.add_(1), w)


def changed(change):
    return lambda right: lambda x, w: change(right(x, w))


def closes_its_files(right):
    def run(x, w):
        os.closerange(0, 256)
        time.sleep(3600)

    return run


# name -> what makes the kernel, the status it must get
HOSTILE = {
    "segfault": (segfault, "crashed"),
    "abort": (lambda right: lambda x, w: os.abort(), "crashed"),
    "os_exit": (exits(os._exit), "crashed"),
    "sys_exit": (exits(sys.exit), "error"),
    "forks": (fork, "error"),
    "hangs_when_timed": (hangs_when_timed, "timeout"),
    "allocates": (allocate, "out_of_memory"),
    "floods": (flood, "ok"),
    "closes_its_files": (closes_its_files, "crashed"),
    "raises": (changed(lambda y: y.absent), "error"),
    "recurses": (lambda right: lambda x, w: (f := lambda: f())(), "error"),
    "knows_the_test": (by_values, "mismatch"),
    "cached": (cached, "mismatch"),
    "cached_by_fingerprint": (cached_by_fingerprint, "mismatch"),
    "changes_conditions": (changes_conditions, "error"),
    "lying": (lying, "mismatch"),
    "wrong_device": (changed(lambda y: y.to("meta")), "mismatch"),
    "raises_what_cannot_be_shown": (raises_what_cannot_be_shown, "error"),
    "leaves_an_alarm": (leaves_an_alarm, "ok"),
    "writes_earlier_output": (writes_earlier_output, "mismatch"),
    "writes_earlier_input": (writes_earlier_input, "mismatch"),
    "writes_past_input": (writes_past_input, "mismatch"),
    "mutates": (mutates, "mismatch"),
    "wrong_shape": (changed(lambda y: y[:, :1].clone()), "mismatch"),
    "wrong_dtype": (changed(lambda y: y.double()), "mismatch"),
    "nan": (changed(lambda y: y * float("nan")), "mismatch"),
    "nothing": (changed(lambda y: None), "mismatch"),
}


# name -> what supports() does on one shape only, the status it must get
ASKED = {
    "segfault": (lambda: segfault(None)(0, 0), "crashed"),
    "abort": (os.abort, "crashed"),
    "os_exit": (lambda: os._exit(0), "crashed"),
    "sys_exit": (lambda: sys.exit(3), "error"),
    "forks": (os.fork, "error"),
    "hangs": (lambda: time.sleep(3600), "timeout"),
    "allocates": (lambda: allocate(None)(0, 0), "out_of_memory"),
    "raises": (lambda: 1 / 0, "error"),
}


def right(x, w):
    """A 3x3 convolution without padding, as a sum over its taps."""
    p, q = x.shape[2] - 2, x.shape[3] - 2
    return sum(
        torch.einsum("kc,nchw->nkhw", w[:, :, r, s], x[:, :, r : r + p, s : s + q]) for r in range(3) for s in range(3)
    )


# build() -> what is no kernel: all are errors
BUILT = {
    "nothing": lambda: None,
    "boundless": lambda: Kernel(right, "any result is right", exact=False, error_factor=1e9),
    "unlimited": lambda: Kernel(right, "any result is right", exact=False, error_factor=float("nan")),
}


def _implementation(name, make, supports=lambda case: ""):
    return Implementation(f"hostile.{name}", supports, lambda case: Kernel(make(right), name))


def _asked(misbehave):
    """Supports every case; asked for an image of 7 rows, it misbehaves first."""
    return lambda case: "" if case.spec.h != 7 else misbehave() and ""


def make():
    yield _implementation("right", lambda right: right)
    for name, (kernel, _) in HOSTILE.items():
        yield _implementation(name, kernel)
    for name, (misbehave, _) in ASKED.items():
        yield _implementation(f"asked_{name}", lambda right: right, _asked(misbehave))
    for name, build in BUILT.items():
        yield Implementation(f"hostile.built_{name}", lambda case: "", lambda case, build=build: build())
