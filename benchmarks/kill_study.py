"""Kills at random moments: python benchmarks/kill_study.py [--kills 100] [--seed 0]

Runs a small suite, ends it by SIGKILL, SIGINT or SIGTERM at a random moment, resumes it, and so on; a run that comes to
its end is followed by a new one. After every kill: whatever is a journal holds whole cases, none that was finished
before is gone, none is there twice; run.json and results.csv, where there are any, are valid. Prints what was killed
when, and fails at the first finding.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec

from convbench.errors import EXIT_INTERRUPTED
from convbench.journal import JOURNAL, Entry
from convbench.records import read_csv
from convbench.results import load

SUITE = '[suite]\nname = "small"\n' + "".join(
    f'[[case]]\nname = "c{n}"\ninput = [1, 8, {8 + n}, 9]\nout_channels = 8\nkernel = 3\n' for n in range(12)
)
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
LONGEST_S = 16.0  # to wait before a kill: a whole run takes about as long


def started(folder: Path, suite: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "convbench", "run"]
    if (folder / JOURNAL).exists():
        words += ["--resume", str(folder)]
    else:
        words += [
            str(suite),
            "--quick",
            "--impl",
            "torch",
            "--device",
            "cpu",
            "--max-time",
            "0.02",
            "--out",
            str(folder),
        ]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finished_cases(folder: Path) -> list[int]:
    """Numbers of the cases whose line in the journal is whole; the last line may be torn."""
    path = folder / JOURNAL
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0].split(b"\n")
    return [msgspec.json.decode(line, type=Entry).case for line in whole[1:]]


def inspect(folder: Path, before: list[int]) -> list[int]:
    """Raises AssertionError for a lost or doubled case, or a file that is not valid."""
    now = finished_cases(folder)
    assert now[: len(before)] == before, f"lost: {before} became {now}"
    twice = [case for case, count in Counter(now).items() if count > 1]
    assert not twice, f"measured twice: {twice}"
    if (folder / "run.json").exists():
        load(folder / "run.json")
    if (folder / "results.csv").exists() and (folder / "results.csv").read_text().count("\n") > 1:
        read_csv(folder / "results.csv")
    left = [path.name for path in folder.glob("*.part")]
    assert len(left) <= 1, f"left behind: {left}"
    return now


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random_, kills, ended = random.Random(options.seed), 0, 0
    with tempfile.TemporaryDirectory() as name:
        suite = Path(name) / "small.toml"
        suite.write_text(SUITE)
        folder, done = Path(name) / "0", list[int]()
        while kills < options.kills:
            process, wait = started(folder, suite), random_.uniform(0.0, LONGEST_S)
            begun = time.monotonic()
            while process.poll() is None and time.monotonic() - begun < wait:
                time.sleep(0.01)
            sent = None
            if process.poll() is None:
                sent = random_.choice(SIGNALS)
                process.send_signal(sent)
                kills += 1
            _, errors = process.communicate()
            assert "Traceback" not in errors, errors
            assert sent or process.returncode == 0, errors
            assert sent is None or process.returncode in (0, EXIT_INTERRUPTED, -sent), (sent, process.returncode)
            done = inspect(folder, done)
            print(f"{kills}: {sent.name if sent else 'end'} after {wait:.1f} s, {len(done)} cases finished", flush=True)
            if sent is None or process.returncode == 0:
                assert len(done) == SUITE.count("[[case]]"), done
                ended += 1
                folder, done = Path(name) / str(ended), []
    print(f"{kills} kills, {ended} runs came to their end: no case lost, none measured twice, all files valid")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
