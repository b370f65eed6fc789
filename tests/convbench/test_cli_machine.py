"""`convbench machine`: one JSON document or readable tables on stdout, everything else on stderr."""

import json

import pytest

from convbench import results
from convbench.cli.main import run
from convbench.results import Environment, Peak

ENVIRONMENT = Environment(
    machine="made-up-2c",
    cpu={"model": "Made Up", "cpus_usable": 2, "caches": {"L1": {"bytes": 32768, "shared_by": 1, "instances": 2}}},
    memory={"total_bytes": 8 * 2**30},
    variables={"OMP_PROC_BIND": "close"},
)
PEAKS = [
    Peak(quantity="fma", level="register", device="cpu", dtype="float32", value=232e9),
    Peak(quantity="copy", level="L1", device="cpu", dtype="float32", value=466e9, working_set_bytes=2**15),
]


@pytest.fixture
def measured(monkeypatch):
    """Stands for the machine; keeps what was asked of it."""
    asked = []

    def measure_peaks(device, threads, probes, progress=None, quick=False):
        asked.append((device, threads, quick))
        progress(0, 1, "fma float32 register")
        return PEAKS

    monkeypatch.setattr("convbench.machine.environment.detect", lambda with_torch: ENVIRONMENT)
    monkeypatch.setattr("convbench.machine.noise.warnings", lambda before, after: ["it was loud: be quiet"])
    monkeypatch.setattr("convbench.machine.peaks.measure_peaks", measure_peaks)
    return asked


def test_json_is_one_document_and_nothing_else(measured, capsys):
    assert run(["machine", "--json", "--threads", "1", "--device", "cpu", "--quick"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema_version"] == results.SCHEMA_VERSION
    assert document["command"] == "machine"
    assert [(row["quantity"], row["level"], row["value"]) for row in document["rows"]] == [
        ("fma", "register", 232e9), ("copy", "L1", 466e9),
    ]  # fmt: skip
    assert document["environment"]["cpu"]["model"] == "Made Up"
    assert document["threads"] == 1
    assert document["warnings"] == ["it was loud: be quiet"]
    assert measured == [("cpu", 1, True)]


def test_tables_on_stdout_messages_on_stderr(measured, capsys):
    assert run(["machine", "--threads", "1", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    lines = [" ".join(line.split()) for line in captured.out.splitlines()]
    assert "made-up-2c" in lines
    assert "Processor Made Up" in lines
    assert "Variables OMP_PROC_BIND=close" in lines
    assert "Measured peaks, 1 thread" in lines
    assert "FMA peak register cpu, float32 232 GFLOP/s" in lines
    assert "copy L1 cpu, float32 32 KiB 466 GB/s" in lines
    assert "loud" not in captured.out
    assert "warning: it was loud: be quiet" in captured.err.splitlines()
    assert measured == [("cpu", 1, False)]


def test_no_peaks_only_looks(measured, capsys):
    assert run(["machine", "--no-peaks", "--threads", "1"]) == 0
    captured = capsys.readouterr()
    assert "Made Up" in captured.out
    assert "Measured peaks" not in captured.out
    assert measured == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--threads", "0"], "--threads 0: expected 1 to"),
        (["--threads", "many"], "many"),
        (["--device", "toaster", "--no-peaks"], "--device toaster"),
        (["--device", "cuda:77"], "--device cuda:77"),
        (["suite"], "suite"),
    ],
)
def test_bad_input_is_one_line(measured, capsys, arguments, expected):
    assert run(["machine", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    complaints = [line for line in captured.err.splitlines() if line.startswith("convbench: ")]
    assert len(complaints) == 1
    assert expected in complaints[0]
    assert measured == []


def test_the_real_machine_is_described(capsys):
    assert run(["machine", "--json", "--no-peaks"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["rows"] == []
    assert document["environment"]["cpu"]["cpus_usable"] == document["threads"]
