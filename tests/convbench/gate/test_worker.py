"""One side's process: what it answers, whose code it runs, and the slow-down that is injected."""

import gc
import itertools
import subprocess
import sys

import pytest

from convbench.gate import worker
from convbench.gate.request import Request
from convbench.measure import Policy

REQUEST = Request(cells=[], threads=1, seed=0, policy=Policy(max_time_s=0.01, sample_s=0.0005))
WHOSE = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("worker", sys.argv[1])
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
worker.import_own_convbench()
import convbench.spec
print(convbench.spec.__file__)
"""


@pytest.fixture(autouse=True)
def unfrozen():
    yield
    gc.unfreeze()


def test_it_answers_every_command_and_samples_each_cell_once_a_turn(monkeypatch):
    counts = {"fast": 0, "slow": 0}

    def call(name):
        counts[name] += 1

    made = {"cpu": {name: (lambda name=name: call(name)) for name in counts}}
    monkeypatch.setattr(worker, "calls", lambda request: made)
    lines, said = iter(["warm-up", "turn", "turn", "turn", "stop"]), []
    worker.serve(REQUEST, lambda: next(lines), said.append)
    *answers, samples_s = said
    assert answers == ["ready", "warm-up", "turn", "turn", "turn"]
    assert {name: len(samples) for name, samples in samples_s.items()} == {"fast": 3, "slow": 3}
    assert min(map(min, samples_s.values())) > 0
    assert min(counts.values()) >= 3


def test_it_ends_when_nobody_asks_any_more(monkeypatch):
    monkeypatch.setattr(worker, "calls", lambda request: {})
    said = []
    worker.serve(REQUEST, lambda: "", said.append)
    assert said == ["ready", {}]


def test_the_code_that_measures_is_the_callers(tmp_path):
    """The side has a convbench of its own: it is not imported."""
    (tmp_path / "convbench").mkdir()
    (tmp_path / "convbench" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    words = [sys.executable, "-c", WHOSE, worker.__file__]
    done = subprocess.run(words, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == worker.__file__.replace("gate/worker.py", "spec.py")


def test_a_slowed_call_waits_for_its_share_and_gives_the_result(monkeypatch):
    looks = itertools.count(0, 10)  # each look at the clock is 10 ns later
    monkeypatch.setattr("time.perf_counter_ns", lambda: next(looks))
    slow = worker.slowed(lambda: "result", 5.0)
    assert slow() == "result"  # begun 0, ended 10: waits for 50 more, looks at 20, 30, 40, 50, 60
    assert next(looks) == 70


def test_a_call_that_is_not_slowed_is_left_alone():
    def call():
        return None

    assert worker.slowed(call, 0.0) is call
