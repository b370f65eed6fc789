"""`convbench train`: files and document of a small training, an interrupt and going on, bad input in one line."""

import csv
import json
import signal
import subprocess
import sys

import msgspec
import pytest
import torch

from benchmarks.screenshot import chromium
from convbench.cli.main import run
from convbench.report import render_training
from convbench.train.result import COLUMNS, Result
from convbench.train.session import CHECKPOINT
from tests.convbench.test_report_browser import HOSTILE, assert_quiet, visit
from tests.convbench.test_report_browser import pytestmark as needs_chromium

SMALL = ["--data", "digits", "--set", "width=4", "--epochs", "2", "--batch", "256", "--form", "separable"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "out"
    assert run(["train", "classify", *SMALL, "--impl", "torch.aten", "--impl", "torch.channels_last",
                "--out", str(folder)]) == 0  # fmt: skip
    return folder


def test_files_agree(folder):
    result = msgspec.json.decode((folder / "train.json").read_bytes(), type=Result)
    with (folder / "train.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    assert [line["variant"] for line in lines] == [row.variant for row in result.rows]
    assert [float(line["metric"]) for line in lines] == [row.metric for row in result.rows]
    assert [row.implementation for row in result.rows] == ["torch.aten", "torch.channels_last", "torch.aten"]
    assert result.rows[1].step_speedup > 0 and result.rows[0].step_speedup is None
    assert result.complete and len(result.examples) == 24


@pytest.fixture
def hostile_page(folder):
    result = msgspec.json.decode((folder / "train.json").read_bytes(), type=Result)
    result.classes, result.machine, history = (HOSTILE, *result.classes[1:]), HOSTILE, result.histories[0]
    before = history.variant.name
    history.variant = msgspec.structs.replace(history.variant, model=f"{HOSTILE}\x1b" + 300 * "W")
    name = history.variant.name
    result.rows[0] = msgspec.structs.replace(result.rows[0], status="error", status_detail=HOSTILE, variant=name)
    for example in result.examples:
        example["predictions"][name] = example["predictions"].pop(before)
    return render_training(result)


def test_the_page_shows_hostile_names_as_text(hostile_page):
    assert HOSTILE not in hostile_page
    assert "&lt;script&gt;" in hostile_page
    assert hostile_page.count("data:image/png;base64,") == 24


@needs_chromium
def test_hostile_names_do_nothing_in_a_browser(hostile_page, tmp_path):
    seen = visit(tmp_path, hostile_page, "(async () => {})();")
    assert_quiet(seen)
    assert seen["images"] == 24


@needs_chromium
def test_the_pages_charts_are_drawn_and_its_pictures_load_under_its_policy(folder):
    done = chromium(folder / "train.html", "--dump-dom", "--enable-logging=stderr")
    assert 'data-charts="drawn"' in done.stdout
    assert done.stdout.count("<svg") > 3 and done.stdout.count('<img src="data:') == 24
    assert "CONSOLE" not in done.stderr


def test_the_document_and_going_on_after_the_end(folder, capsys):
    assert run(["train", "--resume", str(folder), "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["schema_version"], document["command"], document["complete"]) == (1, "train", True)
    assert [row["steps"] for row in document["rows"]] == [10, 10, 10]


def test_a_training_of_a_device_that_is_not_here_is_refused(folder, tmp_path, capsys):
    state = torch.load(folder / CHECKPOINT, weights_only=True)
    state["settings"]["device"] = "cuda:7"
    torch.save(state, tmp_path / CHECKPOINT)
    assert run(["train", "--resume", str(tmp_path)]) == 2
    assert "--device cuda:7" in capsys.readouterr().err


def test_an_interrupt_keeps_what_is_trained(tmp_path):
    command = [sys.executable, "-m", "convbench", "train", "classify", *SMALL, "--impl", "torch.aten"]
    command += ["--epochs", "400", "--model", "classifier", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr
    next(line for line in process.stderr if line.startswith("epoch 1/"))
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate()
    assert process.returncode == 130
    assert f"convbench train --resume {tmp_path}" in rest
    result = msgspec.json.decode((tmp_path / "train.json").read_bytes(), type=Result)
    assert not result.complete and result.rows[0].steps >= 5


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "classify or segment"),
        (["classify", "--loss", "dice"], "--loss dice: Dice compares masks"),
        (["classify", "--augment", "none", "--augment", "flip"], "--augment none: leave out the others"),
        (["classify", "--model", "resnett"], "did you mean 'resnet'"),
        (["classify", "--impl", "numba.fastest"], "numba.fastest"),
        (["classify", "--set", "width"], "write NAME=VALUE"),
        (["classify", "--data", "digits", "--model", "unet"], "fails on images of 1x8x8"),
        (["segment", "--data", "digits"], "is for `convbench train classify`"),
        (["classify", "--data", "digits", "--batch", "5000"], "only 1437 training images"),
        (["classify", "--device", "cuda:7"], "--device cuda:7"),
        (["--resume", "nowhere"], "nowhere/checkpoint.pt"),
        (["--resume", "nowhere", "--epochs", "3"], "leave out --epochs"),
    ],
)
def test_bad_input_is_one_line(arguments, expected, capsys):
    assert run(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


def test_a_model_of_the_users_own(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n"
        "def make(classes=10):\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))\n"
        "def fixed():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 7))\n"
    )
    small = ["--data", "digits", "--epochs", "1", "--batch", "256", "--impl", "torch.aten", "--json"]
    assert run(["train", "classify", "--model", f"{tmp_path}/mine.py:make", *small, "--out", str(tmp_path / "a")]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["form"] == "as_is"
    assert row["macs"] == 36 * 4 * 9 + 144 * 10
    assert row["params"] == 4 * 9 + 4 + 1440 + 10
    assert run(["train", "classify", "--model", f"{tmp_path}/mine.py:fixed", *small]) == 2
    assert "(2, 7) for 2 images" in capsys.readouterr().err


def test_a_folder_in_use_is_not_written_over(folder, capsys):
    assert run(["train", "classify", *SMALL, "--out", str(folder)]) == 2
    assert "holds a training already" in capsys.readouterr().err
