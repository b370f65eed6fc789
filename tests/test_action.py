"""The GitHub action: its steps, run with a convbench that ends as it is told."""

import os
import subprocess
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
GATE, CANARY = ACTION["runs"]["steps"]


@pytest.fixture
def step(tmp_path):
    """step(script, code, strict) -> exit code, what it printed, what convbench was told."""

    def run(script, code, strict="false", **more):
        (tmp_path / "convbench").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/told\nexit {code}\n')
        (tmp_path / "convbench").chmod(0o755)
        env = {"BASE": "b", "HEAD": "h", "ARGUMENTS": "my.toml --impl mine", "CANARY": "25%", "STRICT": strict,
               "OUT": "o", "GITHUB_OUTPUT": str(tmp_path / "output"),
               "PATH": f"{tmp_path}:{os.environ['PATH']}"}  # fmt: skip
        (tmp_path / "told").touch()
        words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]  # as GitHub runs it
        done = subprocess.run(words, env=env | more, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout, (tmp_path / "told").read_text().strip()

    return run


@pytest.mark.parametrize(
    ("code", "strict", "result"),
    [(0, "false", 0), (1, "false", 1), (2, "false", 2), (3, "false", 0), (3, "true", 3)],
)
def test_the_gate_fails_as_convbench_does_and_on_inconclusive_when_asked(step, tmp_path, code, strict, result):
    assert step(GATE["run"], code, strict) == (result, "", "ab b h my.toml --impl mine --out o")
    assert (tmp_path / "output").read_text() == f"exit-code={code}\n"


@pytest.mark.parametrize(
    ("code", "strict", "result", "said"),
    [
        (1, "false", 0, "the gate is alive"),
        (0, "false", 1, "::error title=convbench canary::the gate is dead"),
        (2, "false", 1, "the gate is dead"),
        (3, "false", 0, "::warning"),
        (3, "true", 1, "::warning"),
    ],
)
def test_the_canary_fails_where_a_slow_down_is_not_found(step, code, strict, result, said):
    found, printed, told = step(CANARY["run"], code, strict)
    assert (found, told) == (result, "ab h h my.toml --impl mine --inject 25% --out o-canary")
    assert said in printed


def test_patterns_are_for_convbench(step):
    assert step(GATE["run"], 0, ARGUMENTS="--case * --impl mine")[2] == "ab b h --case * --impl mine --out o"


@pytest.mark.parametrize("base", ["", "0" * 40])
def test_an_event_without_a_base_says_what_to_do(step, base):
    code, printed, told = step(GATE["run"], 0, BASE=base)
    assert (code, told) == (2, "")
    assert "set the input base" in printed


def test_every_input_reaches_the_steps():
    used = {value for step in (GATE, CANARY) for value in step["env"].values()}
    assert used == {f"${{{{ inputs.{name} }}}}" for name in ACTION["inputs"]}
