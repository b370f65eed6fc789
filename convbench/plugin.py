"""The plug-in interface: all that a kernel package knows of convbench.

A package offers kernels through the entry-point group ``convbench.kernels``::

    [project.entry-points."convbench.kernels"]
    mine = "my_package:implementations"

where ``implementations()`` returns Implementation objects named ``family.algorithm``; the family is the
entry point's name, ``mine``. They are then listed, verified, timed and reported like convbench's own,
which come in by the same door.

A kernel receives torch tensors (contiguous NCHW unless its implementation declares another layout)
in the order of ``Case.operand_names`` and returns a freshly allocated torch tensor (a tuple of two
for the weight gradient of a separable pair). Allocate outputs with torch (``torch.empty``), so that
every implementation pays for memory alike and verification can poison it. A kernel never writes
to its inputs, and never falls back to another implementation: what it cannot do, ``supports`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from convbench.case import Case, DType
from convbench.spec import ConvSpec, Pass

__all__ = ["Case", "ConvSpec", "DType", "Implementation", "Kernel", "Layout", "Pass", "Probe", "Unavailable"]

SUPPORTED = ""  # what supports() answers when there is no reason against
LARGEST_ERROR_FACTOR = 100  # with more a wrong result would pass; Winograd F(4,3) has 10
Layout = Literal["nchw", "channels_last"]


class Unavailable(Exception):
    """Raised by implementations() where none of a family can run: the reason, in a few words."""


@dataclass(frozen=True)
class Kernel:
    """A kernel ready to be called for one case.

    run         run(*operands) -> output; everything it does is timed, from tensors to a new tensor
    algorithm   what was chosen for this shape, for the ``algorithm`` column
    prepare     prepare(*operands) -> as many operands of run; done once, outside the timing. Only for
                what a user can keep between calls (packed weights); say "prepacked" in the name. It
                sees zeros for x and dy, and run gets these themselves in their places
    exact       integer-valued operands give the exact result (False for Winograd and FFT)
    error_factor how much larger than a plain sum's the rounding error may be; state the source
    relu        run(*operands, relu=True) makes negative results zero, in the same pass
    """

    run: Callable[..., Any]
    algorithm: str
    prepare: Callable[..., tuple[Any, ...]] | None = None
    exact: bool = True
    error_factor: float = 1.0
    relu: bool = False

    def __post_init__(self) -> None:
        if not callable(self.run) or not isinstance(self.algorithm, str):
            raise TypeError(f"Kernel({self.run!r}, {self.algorithm!r}): expected a function and a text")
        if not 0 < self.error_factor <= LARGEST_ERROR_FACTOR:
            raise ValueError(f"error_factor {self.error_factor}: expected a number up to {LARGEST_ERROR_FACTOR}")


@dataclass(frozen=True)
class Implementation:
    """One way of computing convolutions.

    name        ``family.algorithm``, unique
    supports    supports(case) -> "" when it can, otherwise the reason in a few words
    build       build(case) -> Kernel: chooses, compiles and packs ahead; timed apart as compile time.
                Only called when supports(case) is ""
    summary     one line for ``convbench list``
    layout      memory format of the tensors it is given
    on_request  timed only when asked for by name or with --full: written to be read, or slow to compile
    """

    name: str
    supports: Callable[[Case], str]
    build: Callable[[Case], Kernel]
    summary: str = ""
    layout: Layout = "nchw"
    on_request: bool = False

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout) or not isinstance(self.summary, str):
            raise ValueError(f"{self.name}: expected a text as summary, and a layout of {', '.join(get_args(Layout))}")

    @property
    def family(self) -> str:
        return self.name.split(".", 1)[0]


@dataclass(frozen=True)
class Probe:
    """A measurement of the machine's limits, offered through the group ``convbench.probes``.

    quantity    "fma" (FLOP/s), "copy" or "triad" (bytes/s, write-allocate not counted)
    device      "cpu" or "cuda"
    dtype       what it computes in
    run         run(working_set_bytes, repeats) does the work once over `repeats` passes and returns
                how many FLOPs or bytes that was; the caller holds the clock. "fma" ignores the size
    """

    quantity: Literal["fma", "copy", "triad"]
    device: str
    dtype: DType
    run: Callable[[int, int], int] = field(repr=False)
