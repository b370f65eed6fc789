"""A/A study: is any side of the comparison penalised by the company it is timed in?

    python benchmarks/fairness.py [SUITE]

Times torch.aten and numba.auto each twice under different names, all four interleaved, and torch.aten among
copies of itself only. Every ratio of twins should hold 1 in its interval, about one in twenty missing it; and
torch among Numba kernels should be as fast as torch alone (two OpenMP pools can spin into each other).
"""

from __future__ import annotations

import sys
from dataclasses import replace

from convbench.plan import Selection, select_cases
from convbench.process import keep_freed_memory, prepare
from convbench.registry import REFERENCE


def main(suite: str) -> None:
    threads = prepare(None)
    keep_freed_memory()
    import torch

    from convbench.measure import Policy, median_interval, speedup
    from convbench.measure import measure as interleave
    from convbench.registry import registry
    from convbench.verify import Checker

    found = registry().implementations
    policy = Policy(max_time_s=1.0)
    print(f"{threads} threads; twin / itself with 95% interval; torch alone / torch among numba")
    with torch.inference_mode():
        for case in select_cases(Selection(suites=(suite,)), suite, "forward", ["cpu"]):
            checker, calls = Checker(case), {}
            for name in (REFERENCE, "numba.auto"):
                if found[name].supports(case):
                    continue
                kernel = found[name].build(case)
                operands = checker.timing_operands(found[name], kernel)
                for twin in (name, f"{name} twin"):
                    calls[twin] = lambda run=kernel.run, operands=operands: run(*operands)
            mixed = interleave(calls, policy, REFERENCE)
            alone = interleave({n: c for n, c in calls.items() if n.startswith(REFERENCE)}, policy, REFERENCE)
            report = []
            for name in (n for n in calls if not n.endswith("twin")):
                ratio = speedup(replace(mixed[name]), mixed[f"{name} twin"])
                assert ratio
                report.append(f"{name} {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]")
            apart = median_interval(alone[REFERENCE].seconds).value / median_interval(mixed[REFERENCE].seconds).value
            print(f"{case.name:36} {'   '.join(report)}   alone/among {apart:.3f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "quick")
