"""The command on tiny models: one document, the files, and one clear line for what cannot be profiled."""

import json
import shutil

import pytest

from convbench.cli.main import run
from convbench.machine import peaks
from convbench.profile import cold, export
from convbench.results import Peak
from tests.convbench.profile.test_advice import FILES

SOURCE = '''
import torch
from torch import nn


class Net(nn.Module):
    """Two inputs, one of them in a dictionary; a branch on data; two outputs."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.ConvTranspose2d(8, 4, 2, 2, groups=2)

    def forward(self, image, more):
        y = self.a(image) + more["y"]
        return {"z": self.b(y) if y.sum() == y.sum() else y, "n": 1}


def INPUT():
    return {"image": torch.rand(1, 3, 8, 8), "more": {"y": torch.rand(1, 8, 8, 8)}}


def net():
    return Net()


def compiled():
    return torch.compile(Net(), backend="eager")


def only_forward():
    model = Net()
    model.forward = torch.no_grad()(model.forward)
    return model


def linear():
    return nn.Linear(8, 2)


def one():
    return nn.Conv2d(3, 8, 3)


def embedded():
    return nn.Sequential(nn.Embedding(9, 4), nn.Conv2d(1, 1, 1))


def casts():
    model = nn.Conv2d(3, 8, 3)
    forward = model.forward
    model.forward = lambda x: forward(x.half())
    return model


def autocast():
    class Needs(nn.Conv2d):
        def forward(self, x):
            assert torch.is_autocast_enabled("cpu")
            return super().forward(x)

    return Needs(3, 8, 3)


def needs(depth):
    return nn.Conv2d(depth, 3, 1)
'''
QUICK = ["--impl", "torch.aten", "--max-time", "0.002"]


@pytest.fixture(autouse=True)
def known_peaks(monkeypatch):
    """Peaks that nobody measures, and caches that are filled at once."""

    def measured(device, *_, **__):
        return [
            Peak(quantity="fma", level="register", device=device, dtype="float32", value=1e11),
            Peak(quantity="triad", level="DRAM", device=device, dtype="float32", value=1e10),
        ]

    monkeypatch.setattr(peaks, "measure_peaks", measured)
    monkeypatch.setattr(cold, "MOST_BYTES", 2**16)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "profiled_net.py"
    path.write_text(SOURCE)
    return path


def document(capsys, *arguments):
    assert run(["profile", *map(str, arguments), *QUICK, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_document_and_the_files_of_a_model_with_odd_inputs(file, tmp_path, capsys):
    found = document(capsys, f"{file}:net", "--out", tmp_path / "out")
    assert (found["schema_version"], found["command"]) == (1, "profile")
    rows = {(row["case"], row["pass"]): row for row in found["rows"]}
    assert set(rows) == {
        ("a", "forward"), ("b", "forward"), ("b", "data_gradient"), ("b", "weight_gradient"), ("a", "weight_gradient"),
    }  # fmt: skip
    assert rows["a", "forward"]["macs"] == 8 * 64 * 3 * 9
    assert rows["b", "forward"]["kind"] == "transposed"
    assert all(row["calls"] == 1 and row["isolated_s"] for row in found["rows"])
    assert found["step"]["convolutions_s"] == pytest.approx(sum(row["step_s"] for row in found["rows"]))
    assert found["step"]["passes"] == "forward and backward"
    assert {variant["name"] for variant in found["variants"]} >= {"channels_last", "bfloat16 autocast"}
    written = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert written["rows"] == found["rows"]
    assert set(found["paths"]) == FILES
    events = json.loads((tmp_path / "out" / "trace.json").read_text())["traceEvents"]
    assert sum(event.get("cat") == "convolution" for event in events) == 5


def test_a_compiled_model_is_timed_as_it_is_and_its_layers_eagerly(file, capsys):
    found = document(capsys, f"{file}:compiled", "--pass", "forward")
    assert found["step"]["compiled"]
    assert found["step"]["eager_s"] != found["step"]["median_s"]
    assert [row["case"] for row in found["rows"]] == ["a", "b"]


def test_a_model_without_a_backward_pass_is_profiled_forward_and_says_so(file, capsys):
    found = document(capsys, f"{file}:only_forward")
    assert found["step"]["passes"] == "forward"
    assert "no output depends" in found["step"]["forward_only_because"]
    assert {row["pass"] for row in found["rows"]} == {"forward"}


def test_a_model_that_only_runs_under_autocast(file, capsys):
    found = document(capsys, f"{file}:autocast", "--input", "1,3,6,6", "--autocast", "bfloat16")
    assert {(row["pass"], row["dtype"]) for row in found["rows"]} == {
        ("forward", "bfloat16"), ("weight_gradient", "bfloat16"),
    }  # fmt: skip
    assert not [variant["reason"] for variant in found["variants"] if "Error" in variant["reason"]]


def test_a_folder_that_vanishes_meanwhile_costs_no_numbers(file, tmp_path, monkeypatch, capsys):
    def removed(*given, real=export.contents):
        shutil.rmtree(tmp_path / "out")
        return real(*given)

    monkeypatch.setattr(export, "contents", removed)
    words = ["--input", "1,3,6,6", "--pass", "forward", "--out", str(tmp_path / "out")]
    assert run(["profile", f"{file}:one", *words, *QUICK]) == 2
    shown = capsys.readouterr()
    assert "3x6x6 -> 8, 3x3" in shown.out
    assert "No such file or directory; make room or choose another folder" in shown.err.splitlines()[-1]


def test_the_terminal_shows_layers_and_advice(file, capsys):
    assert run(["profile", f"{file}:one", "--input", "1,3,6,6", "--pass", "forward", *QUICK]) == 0
    shown = capsys.readouterr().out
    assert "3x6x6 -> 8, 3x3" in shown
    assert "Advice" in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["missing.py:net"], "there is no file missing.py"),
        (["FILE:linear", "--input", "2,8"], "no two-dimensional convolution ran on --input 2,8"),
        (["FILE:one", "--input", "1,4,8,8"], "fails on --input 1,4,8,8"),
        (["FILE:needs"], "needs arguments (depth)"),
        (["FILE:net", "--device", "gpu"], "expected cpu, cuda or a GPU"),
        (["FILE:net", "--impl", "nothing"], "implementation 'nothing' is not registered"),
        (["FILE:net", "--max-time", "0"], "max-time"),
        (["FILE:embedded", "--input", "1,8,8"], "or an INPUT function beside it that returns what it takes"),
        (["FILE:casts", "--input", "1,3,8,8"], "Input type (c10::Half)"),
        (["FILE"], "name what makes the model in it"),
        (["FILE:one", "--input", "1,3,8,8", "--out", "FILE/out"], "Not a directory"),
        ([], "Missing argument 'SPEC'"),
    ],
)
def test_what_cannot_be_profiled_says_why_in_one_line(arguments, expected, file, capsys):
    assert run(["profile", *(word.replace("FILE", str(file)) for word in arguments)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("convbench:")]
    assert len(lines) == 1
    assert expected in lines[0]
