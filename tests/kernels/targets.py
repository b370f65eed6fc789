"""Lesser x86 CPUs that Numba can be told to compile for, in a process of its own."""

from convbench_kernels.numba_cpu import tiles

TARGETS = {
    "avx2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma"},
    "avx": {"NUMBA_CPU_NAME": "sandybridge", "NUMBA_CPU_FEATURES": "+avx"},
    "sse2": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"},
}
WIDEST_FIRST = [row.name for row in tiles.TABLE if row.name != "neon"]
# This CPU's own vectors are what all other tests are about; elsewhere than on x86 there are none.
NARROWER = [isa for isa in TARGETS if tiles.ISA.name in WIDEST_FIRST[: WIDEST_FIRST.index(isa)]]
