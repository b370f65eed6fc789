"""Vector width and block sizes of each instruction set: the one table that kernels choose from.

The register tile is MR filters x NR vectors of output pixels, all in registers over the whole reduction:

                    NR vectors of LANES pixels
                  b0          b1          b2           one row of x: loaded once, used MR times
          a0   acc[0][0]   acc[0][1]   acc[0][2]
    MR    a1   acc[1][0]   acc[1][1]   acc[1][2]       one weight: broadcast, used NR times
  filters ..      ..          ..          ..
          a7   acc[7][0]   acc[7][1]   acc[7][2]

MR * NR accumulators + NR vectors of x + one broadcast must fit the register file; MR * NR independent
sums must cover latency x throughput of the FMA units (4 x 2); MR divides most published channel counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
from numba.core import config as _config

config: Any = _config  # Numba fills it in at import: no names for a type checker


@dataclass(frozen=True)
class Isa:
    """name; lanes: float32 in a vector; fma: has fused multiply-add; mr, nr: the register tile (nr in vectors).

    cache_block  bytes kept in L2 while others stream by: a block of weights, a group of copied tiles
    in_place     tiles of pixels up to which weights are read where they are: packing costs more
    copied       channels of a 1 x 1 kernel from which a tile's pixels are copied side by side
    longest      terms of a sum of copied pixels that are added up at a time"""

    name: str
    lanes: int
    fma: bool
    mr: int
    nr: int
    cache_block: int
    in_place: int
    copied: int
    longest: int


TABLE = (
    #   name      lanes  fma    mr  nr  cache_block  in_place  copied  longest  registers: sums, x, weight
    Isa("avx512", 16,    True,  8,  3,  512 * 1024,  4096,     256,    1280),  # 32: 24 + 3 (+ 1)
    Isa("avx2",   8,     True,  4,  3,  128 * 1024,  40,       32,     192),  # 16: 12 + 3 + 1
    Isa("avx",    8,     False, 4,  2,  128 * 1024,  40,       32,     256),  # 16: 8 + 2 + 1 + product
    Isa("neon",   4,     True,  8,  3,  128 * 1024,  40,       32,     256),  # 32: 24 + 3 + 1
    Isa("sse2",   4,     False, 4,  2,  128 * 1024,  40,       32,     256),  # 16: 8 + 2 + 1 + product
)  # fmt: skip


def cpu() -> str:
    """LLVM's name of the CPU that Numba compiles for: the host's, or that of NUMBA_CPU_NAME."""
    return str(config.CPU_NAME or llvm.get_host_cpu_name())


def features() -> set[str]:
    """CPU features that Numba compiles for: the host's, or those of NUMBA_CPU_FEATURES."""
    if config.CPU_FEATURES is not None:
        return {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    return {name for name, present in llvm.get_host_cpu_features().items() if present}


def choose(found: set[str], architecture: str) -> Isa:
    """The widest row of the table that a CPU with these features runs."""
    rows = {isa.name: isa for isa in TABLE}
    if architecture.startswith(("aarch64", "arm64")):
        return rows["neon"]
    if {"avx512f", "avx512vl", "avx512dq"} <= found:
        return rows["avx512"]
    if {"avx2", "fma"} <= found:
        return rows["avx2"]
    return rows["avx" if "avx" in found else "sse2"]


ISA = choose(features(), llvm.get_process_triple())
LANES, MR, NR = ISA.lanes, ISA.mr, ISA.nr
