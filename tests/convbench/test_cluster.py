"""A run on several places: what the jobs are told, what is gathered, what is said of jobs that fail."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from threading import Thread

import psutil
import pytest

from convbench.cli import cluster as cli
from convbench.cli.main import run as convbench
from convbench.cli.run import command
from convbench.results import load

ROOT = Path(__file__).parents[2]
TINY = """
[suite]
name = "tiny"
[[case]]
name = "one"
input = [1, 4, 8, 8]
out_channels = 4
kernel = 3
"""
# Stands for `convbench run`; what it does depends on the place, which names its folder.
RUN = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from convbench.results import to_json
from tests.convbench.records import make_record

out = Path(next(word for word in sys.argv if word.startswith("--out=")).removeprefix("--out="))
if "CUDA_VISIBLE_DEVICES" in os.environ:
    sys.exit("convbench: a job should see the GPUs that its parent sees")
if out.name == "local-2":
    sys.exit("convbench: no space left on device")
out.mkdir(parents=True)
if "--quick" in sys.argv:  # which it is not
    (out / "journal.jsonl").touch()
    time.sleep(60)
(out / "run.json").write_bytes(to_json(make_record(run_id=out.name)))
sys.exit(4 if "--full" in sys.argv else 0)
"""


@pytest.fixture
def pretend(tmp_path, monkeypatch) -> Path:
    """Runs are pretended; the folder of their results."""
    script = tmp_path / "run.py"
    script.write_text(RUN.format(root=str(ROOT)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(cli, "RUN", (sys.executable, str(script)))
    return tmp_path / "fleet"


def test_a_real_run_in_a_job_is_the_run_asked_for(tmp_path, capsys):
    suite, fleet = tmp_path / "tiny.toml", tmp_path / "fleet"
    suite.write_text(TINY)
    selected = ["--quick", str(suite), "--impl", "torch.aten", "--pass", "data_gradient", "--max-time", "0.01"]
    assert convbench(["run", *selected, "--cluster", "local", "--out", str(fleet)]) == 0, capsys.readouterr().err
    (row,) = load(fleet / "local").rows
    assert (row.suite, row.case, row.pass_, row.implementation, row.status) == (
        "tiny", "one", "data_gradient", "torch.aten", "ok",
    )  # fmt: skip
    assert (fleet / "compare.html").exists()


def test_a_failed_job_is_named_and_the_others_are_compared(pretend, capsys):
    assert convbench(["run", "--cluster", "local,local,local", "--out", str(pretend), "--json"]) == 4
    captured = capsys.readouterr()
    reason = "local-2: exit code 1: convbench: no space left on device"
    assert captured.err.count(f"convbench: {reason}\n") == 1
    document = json.loads(captured.out)
    assert [run["run_id"] for run in document["runs"]] == ["local", "local-3"]
    assert document["refused"] == [reason]
    assert reason in (pretend / "compare.md").read_text()
    assert {path.name for path in pretend.glob("compare.*")} == {"compare.html", "compare.csv", "compare.md"}


def test_cells_that_fail_in_a_job_are_told_by_the_exit_code(pretend):
    assert convbench(["run", "--cluster", "local", "--out", str(pretend)]) == 0
    assert convbench(["run", "--full", "--cluster", "local", "--out", str(pretend / "full")]) == 4


def test_a_job_that_takes_too_long_is_named_and_keeps_its_journal(pretend, capsys):
    # Told five seconds before the end.
    assert convbench(["run", "--quick", "--cluster", "local", "--cluster-minutes", "0.15", "--out", str(pretend)]) == 4
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("convbench: ")]
    assert f"local: timed out after 0.15 minutes; what is finished is kept in {pretend / 'local'}" in line
    assert not (pretend / "compare.html").exists()


def test_an_interrupt_ends_the_job_and_everything_it_started(pretend, capfd):
    def press():
        while not (pretend / "local" / "journal.jsonl").exists():
            time.sleep(0.05)
        started.extend(set(psutil.Process().children(recursive=True)) - before)
        os.kill(os.getpid(), signal.SIGINT)

    started: list[psutil.Process] = []
    before = set(psutil.Process().children(recursive=True))
    Thread(target=press, daemon=True).start()
    assert convbench(["run", "--quick", "--cluster", "local,local", "--out", str(pretend)]) == 130
    told = f"interrupted: 0 of 2 runs ended; what is measured is kept in {pretend}"
    assert capfd.readouterr().err.splitlines()[1:] == [told]
    assert len(started) == 3
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in started)


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["--quick", "--full", "--threads", "2", "--precision", "1%", "--max-time", "0.5", "--seed", "7"],
        ["--impl", "numba", "--impl", "torch.aten", "--case", "a*", "--dtype", "float64", "--pass", "all"],
        ["vgg16", "--device", "cpu", "--suite", "unet"],
        ["--model", "resnet", "--input", "1,3,64,64", "--input", "2x3x32x32"],
    ],
)
def test_jobs_get_the_options_of_the_run_but_for_its_own(given):
    own = ["--cluster", "cpu,gpu:a100", "--cluster-minutes", "5", "--out", "fleet", "--json"]
    with command.make_context("run", [*own, *given]):
        told = cli.arguments()
    expected, found = (command.make_context("run", list(line)).params for line in (given, told))
    assert found == expected


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """A pretended SLURM, which knows every partition but one and runs a job at once; the last batch script."""
    script, tools = tmp_path / "batch.sh", tmp_path / "bin"
    refuse = '{ echo "sbatch: error: invalid partition specified: nowhere" >&2; exit 1; }'
    commands = {
        "sbatch": f'grep -q partition=nowhere "$1" && {refuse}\ncp "$1" {script}\n'
        f"SLURM_JOB_ID=7 sh {script} >/dev/null 2>&1 &\necho Submitted batch job 7",
        "sacct": "echo 'JobID|State|NodeList'\necho '7|RUNNING|n1'",
        "srun": "exit 1",
    }
    tools.mkdir()
    for name, text in commands.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    return script


def test_a_partition_is_an_exclusive_job_of_slurm(slurm, pretend, capsys):
    assert convbench(["run", "--cluster", "gpu:a100,nowhere", "--cluster-minutes", "30", "--out", str(pretend)]) == 4
    assert "convbench: nowhere: not taken: sbatch: error: invalid partition" in capsys.readouterr().err
    assert load(pretend / "gpu-a100").run_id == "gpu-a100"
    options = {line.removeprefix("#SBATCH --") for line in slurm.read_text().splitlines() if line.startswith("#SBATCH")}
    assert options >= {"partition=gpu", "constraint=a100", "exclusive", "mem=0", "time=30", "nodes=1"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--cluster", "gpu"], "--cluster gpu: no SLURM here"),
        (["--cluster", "local,,gpu"], "local,,gpu names no partition"),
        (["--cluster", "local", "no_such_suite"], "no_such_suite"),
        (["--cluster", "local", "--save-suite", "mine.toml"], "--save-suite mine.toml"),
        (["--cluster", "local", "--out", "/dev/null/fleet"], "/dev/null/fleet"),
        (["--cluster", "local", "--resume", "earlier"], "leave out --cluster"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, expected, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert convbench(["run", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


def test_submitit_missing_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert convbench(["run", "--cluster", "local"]) == 2
    assert "pip install submitit" in capsys.readouterr().err
