"""How fast the tool itself is: start-up, imports, and the share of a run spent on samples.

    python benchmarks/tool_speed.py [RUN_FOLDER]

Prints medians over fresh processes; with the folder of a run also where that run's wall time went.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter

REPEATS = 9
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import convbench": ["-c", "import convbench"],
    "convbench --help": ["-m", "convbench.cli.main", "--help"],
    "convbench count --suite vgg16": ["-m", "convbench.cli.main", "count", "--suite", "vgg16"],
    "import torch": ["-c", "import torch"],
}


def wall_s(arguments: list[str]) -> float:
    start = perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return perf_counter() - start


def main(folder: str | None) -> None:
    for name, arguments in COMMANDS.items():
        times = [wall_s(arguments) for _ in range(REPEATS)]
        print(f"{name:32} median {statistics.median(times):6.3f} s   best {min(times):6.3f} s")
    if folder:
        from convbench.results import load

        record = load(Path(folder))
        total = record.timings["total"]
        for activity, seconds in sorted(record.timings.items(), key=lambda item: -item[1]):
            print(f"{activity:32} {seconds:8.2f} s  {seconds / total:6.1%}")
        compiled = sum(row.compile_s or 0 for row in record.rows)
        print(f"{'compile_s over all cells':32} {compiled:8.2f} s")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
