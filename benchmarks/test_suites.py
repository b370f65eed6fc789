"""The suites through pytest-benchmark: pytest benchmarks/ --convbench-suite mobilenet_v1 --convbench-impl numba"""


def test_convolution(benchmark, convolution):
    benchmark(convolution)
