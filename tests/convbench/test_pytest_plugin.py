"""pytest's plug-in: layers as benchmarks, verified; wrong kernels fail; nobody else's session pays for it."""

import os
import subprocess
import sys

import pytest

from convbench.records import read_one
from tests.conftest import environment

pytest.importorskip("pytest_benchmark")

TEST = """
def test_layer(benchmark, convolution):
    benchmark.pedantic(convolution, rounds=6)
"""
WRONG = """
import torch
from convbench.plugin import Implementation, Kernel
def make():
    return [Implementation("wrong.plus_one", lambda case: "", lambda case: Kernel(lambda x, w: x + 1, "wrong"))]
"""
LAYER = ["--convbench-suite=quick", "--convbench-case=mobilenet_v1.block8.pw"]


def run_pytest(folder, *arguments, env=None):
    (folder / "test_layers.py").write_text(TEST)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, env=env)


def test_a_layer_on_two_implementations_and_a_record_of_it(tmp_path):
    done = run_pytest(tmp_path, *LAYER, "--convbench-impl=torch.unfold", "--benchmark-json=bench.json")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    record = read_one(tmp_path / "bench.json")
    assert (record.command, record.complete) == ("pytest", True)
    reference, other = record.rows
    assert (reference.implementation, other.implementation) == ("torch.aten", "torch.unfold")
    for row in (reference, other):
        assert (row.status, len(row.samples_s), row.case) == ("ok", 6, "mobilenet_v1.block8.pw")
        assert row.error <= row.tolerance
    assert other.speedup_vs_reference == pytest.approx(reference.median_s / other.median_s)


def test_a_wrong_kernel_fails_with_what_is_wrong_and_a_wrong_option_is_refused(tmp_path, plugin_path):
    env = environment(plugin_path("wrong", WRONG))
    done = run_pytest(tmp_path, *LAYER, "--convbench-impl=wrong", env=env)
    assert done.returncode == 1, done.stdout
    assert "1 passed" in done.stdout  # the reference
    assert "1 error" in done.stdout
    assert "mismatch: " in done.stdout
    done = run_pytest(tmp_path, "--convbench-suite=no_such")
    assert done.returncode == 2  # interrupted: an error during collection
    assert "convbench: suite 'no_such' is not built in" in done.stdout + done.stderr


def test_a_session_without_convolutions_imports_nothing(tmp_path):
    (tmp_path / "test_plain.py").write_text(
        "import sys\ndef test_plain():\n    assert not {'torch', 'numba', 'msgspec'} & set(sys.modules)\n"
    )
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:hypothesispytest", "test_plain.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stdout
