"""A stranger's kernel through the entry point: in list, verify, run and the report, with no change to convbench."""

import json
import subprocess
import sys

from convbench.results import load

NAME = "example.shift_and_add"
LAYER = ["--case", "resnet50.conv4_2.b"]  # one layer of the quick suite


def convbench(environment, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "convbench.cli.main", *arguments], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_listed_verified_run_and_reported(example_plugin_environment, tmp_path):
    listed = json.loads(convbench(example_plugin_environment, "list", "implementations", "--json"))
    assert NAME in {row["implementation"] for row in listed["rows"]}

    words = ["verify", "quick", *LAYER, "--impl", NAME, "--pass", "forward", "--json"]
    verified = json.loads(convbench(example_plugin_environment, *words))
    assert {row["implementation"]: row["status"] for row in verified["rows"]}[NAME] == "ok"

    out = str(tmp_path / "run")
    words = ["run", "quick", *LAYER, "--impl", NAME, "--quick", "--max-time", "0.02", "--out", out]
    assert NAME in convbench(example_plugin_environment, *words)
    row = next(row for row in load(tmp_path / "run").rows if row.implementation == NAME)
    assert (row.status, row.algorithm) == ("ok", "9 taps")
    assert row.speedup_vs_reference > 0
    assert NAME in (tmp_path / "run" / "report.html").read_text()
