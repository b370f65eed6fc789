"""How much `convbench check` has to allow between two runs of the same code, and how often it is wrong there.

    for i in 1 2 3 4 5 6; do convbench run --quick --out /tmp/runs/$i; done
    python benchmarks/check_noise.py /tmp/runs/*

Prints the standard deviation of a cell's log speed-up between runs, what its interval promised, and what is left over:
PROCESS_SD of convbench/gate/records.py; then the verdicts of every run checked against every other.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter, defaultdict
from itertools import permutations
from pathlib import Path
from statistics import mean, median, pvariance

from convbench.cli.common import Fraction, out
from convbench.gate.records import TWO_SIDED, compare
from convbench.gate.verdicts import Rules
from convbench.records import read_one
from convbench.results import Record, cell_name


def variances(records: list[Record]) -> list[tuple[float, float]]:
    """Of each cell's log speed-up: the variance between runs, and the mean variance that the intervals promise."""
    found = defaultdict(list)
    for row in (row for record in records for row in record.rows):
        if (
            row.speedup_ci_low
            and row.speedup_ci_high
            and row.speedup_vs_reference
            and row.implementation != row.reference
        ):
            error = math.log(row.speedup_ci_high / row.speedup_ci_low) / (2 * TWO_SIDED)
            found[cell_name(row)].append((math.log(row.speedup_vs_reference), error**2))
    count = len(records)
    whole = [list(zip(*values, strict=True)) for values in found.values() if len(values) == count]
    return [(pvariance(logs) * count / (count - 1), mean(promised)) for logs, promised in whole]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--floor", default="10%")
    options = parser.parse_args()
    records = [read_one(path) for path in options.runs]
    cells = variances(records)
    over = [max(0.0, between - promised) for between, promised in cells]
    out().print(f"{len(records)} runs, {len(cells)} cells; standard deviations of a log speed-up:")
    for name, values in (("between runs", [b for b, _ in cells]), ("promised", [p for _, p in cells]), ("left", over)):
        root_mean, middle = math.sqrt(mean(values)), math.sqrt(median(values))
        out().print(f"  {name:12} {root_mean:.2%} (root mean square), {middle:.2%} (median cell)")
    rules = Rules(floor=Fraction().convert(options.floor, None, None))
    outcomes = [compare(base, head, rules) for base, head in permutations(records, 2)]
    verdicts = Counter(finding.verdict for outcome in outcomes for finding in outcome.findings)
    words = Counter(outcome.word for outcome in outcomes)
    out().print(f"floor {rules.floor:.0%}: {len(outcomes)} checks: {dict(words)}; cells: {dict(verdicts)}")


if __name__ == "__main__":
    main()
