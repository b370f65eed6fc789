"""A suite from a model: whatever way a convolution is called, it is found; what cannot be run says why in one line."""

import json
import sys

import pytest
import torch
from torch import nn

from convbench import count
from convbench.cli.main import run
from convbench.suites import ModelSource, resolve
from convbench.suites.toml import parse

SOURCE = '''
import torch
from torch import nn
from torch.nn import functional as F

INPUT = (1, 4, 8, 8)


class Odd(nn.Module):
    """A functional call, a module called three times, a transposed layer, a branch on the data."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Conv2d(4, 4, 3, padding="same")
        self.weight = nn.Parameter(torch.ones(6, 2, 3, 3))
        self.up = nn.ConvTranspose2d(6, 4, 2, 2, output_padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        for _ in range(3):
            x = self.shared(x)
        if x.sum() == x.sum():
            x = F.conv2d(x, self.weight, stride=2, padding=(1, 2), dilation=2, groups=2)
        return {"logits": self.head(self.up(x).mean((2, 3)))}


def compiled():
    return torch.compile(Odd())


def two():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, a, b):
            return self.conv(a), self.conv(b)

    return Two()


def without():
    return nn.Linear(8, 2)


def needs(depth, width=3):
    return nn.Conv2d(depth, width, 1)


def fails():
    raise RuntimeError("no weights here")


def number():
    return 3


instance = nn.Conv2d(4, 8, 3)
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "odd_net.py"
    path.write_text(SOURCE)
    return path


def layers(spec, *inputs):
    return {layer.name: layer for layer in resolve(ModelSource(spec, inputs)).layers}


@pytest.mark.parametrize("factory", ["Odd", "compiled"])
def test_functional_calls_shared_modules_and_compiled_models_are_seen(file, factory):
    found = layers(f"{file}:{factory}")
    assert list(found) == ["shared", "model", "up"]
    assert found["shared"].count == 3
    functional, up = found["model"].spec, found["up"].spec
    assert (functional.stride, functional.padding, functional.dilation) == ((2, 2), (1, 2), (2, 2))
    assert (functional.groups, functional.k) == (2, 6)
    assert (up.operator, up.output_padding, up.k) == ("conv_transpose2d", (1, 1), 4)


def test_parameters_and_matrix_products_are_in_the_totals(file):
    suite = resolve(ModelSource(f"{file}:Odd"))
    assert sum(other.macs for other in suite.others) == 4 * 5
    # the shared weights run three times and are there once
    model = 4 * 4 * 9 + 4 + 6 * 2 * 9 + 6 * 4 * 4 + 4 + 4 * 5 + 5
    own = sum(p.numel() for p in (nn.Conv2d(4, 4, 3).weight, nn.Conv2d(4, 4, 3).bias))
    assert model == own + 6 * 2 * 9 + sum(p.numel() for p in nn.ConvTranspose2d(6, 4, 2).parameters()) + 25
    assert sum(other.params for other in suite.others) == 25


def test_several_inputs_and_instances(file):
    assert len(layers(f"{file}:two", (1, 3, 8, 8), (2, 3, 9, 9))) == 2
    assert list(layers(f"{file}:instance")) == ["model"]


def test_a_dotted_name_and_its_own_input_shape(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert "shared" in layers("odd_net:Odd")


def test_the_saved_suite_reads_back_equal(file, tmp_path, capsys):
    saved = tmp_path / "odd.toml"
    arguments = ["count", "--model", f"{file}:Odd", "--save-suite", str(saved), "--json"]
    assert run(arguments) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    again = parse(saved.read_bytes(), str(saved))
    source = resolve(ModelSource(f"{file}:Odd"))
    assert again.layers == source.layers
    assert again.others == source.others
    assert [row["count"] for row in rows] == [3, 1, 1]
    assert run(arguments) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "inputs", "expected"),
    [
        ("resnett", (), "did you mean 'resnet'"),
        ("missing.py:make", (), "there is no file missing.py"),
        ("no_such_package.nets:make", (), "No module named 'no_such_package'"),
        ("FILE:Od", (), "did you mean Odd"),
        ("FILE:needs", (), "needs arguments (depth)"),
        ("FILE:fails", (), "RuntimeError: no weights here"),
        ("FILE:number", (), "made a int; expected a torch.nn.Module"),
        ("FILE:without", ("2,8",), "no two-dimensional convolution ran on --input 2,8"),
        ("FILE:Odd", ("1,3,8,8",), "fails on --input 1,3,8,8"),
        ("FILE:Odd", ("1,-3,8,8",), "write sizes such as 1,3,224,224"),
        ("FILE:Odd", ("1000000,1000000,8,8",), "more than 2^40 elements"),
    ],
)
def test_what_cannot_be_run_says_why_in_one_line(spec, inputs, expected, file, capsys):
    options = [word for shape in inputs for word in ("--input", shape)]
    assert run(["count", "--model", spec.replace("FILE", str(file)), *options]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


def test_a_file_that_fails_to_import_or_exits(tmp_path, capsys):
    for number, line in enumerate(("import not_there", "raise SystemExit(3)", "def make(:")):
        path = tmp_path / f"broken{number}.py"
        path.write_text(line)
        assert run(["count", "--model", f"{path}:make"]) == 2
        assert "importing" in capsys.readouterr().err


def test_an_input_without_a_model_and_a_suite_saved_from_two(file, tmp_path, capsys):
    assert run(["count", "--input", "1,3,8,8"]) == 2
    assert "name the model with --model" in capsys.readouterr().err
    out = str(tmp_path / "two.toml")
    assert run(["count", "vgg16", "--model", f"{file}:Odd", "--save-suite", out]) == 2
    assert "one --model or --suite" in capsys.readouterr().err


def test_the_tracer_counts_what_torch_itself_counts():
    """torch.utils.flop_counter on a whole forward pass is the independent count of the same model."""
    from torch.utils.flop_counter import FlopCounterMode

    from convbench import models

    for name in ("unet", "deeplab"):
        model, shape = models.load(name)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(torch.rand(shape))
        suite = resolve(ModelSource(name))
        macs = sum(layer.count * count.macs(layer.spec) for layer in suite.layers) + sum(o.macs for o in suite.others)
        assert 2 * macs == counter.get_total_flops()


def test_hooks_and_modes_are_gone_after_a_model_that_raises(file, capsys):
    assert run(["count", "--model", f"{file}:instance", "--input", "1,5,8,8"]) == 2
    module = sys.modules["convbench_model_odd_net"].instance
    assert not module._forward_pre_hooks
    assert not module._forward_hooks
    assert not torch.utils._python_dispatch._get_current_dispatch_mode()


@pytest.mark.parametrize(
    "made", ["{'x': torch.rand(1, 4, 8, 8)}", "torch.rand(1, 4, 8, 8)", "(torch.rand(1, 4, 8, 8).double(),)"]
)
def test_an_input_that_is_made_by_a_function(made, tmp_path):
    path = tmp_path / "made_input.py"
    path.write_text(SOURCE.replace("INPUT = (1, 4, 8, 8)", f"def INPUT():\n    return {made}"))
    assert layers(f"{path}:Odd")["shared"].spec.x_shape == (1, 4, 8, 8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def INPUT():\n    return 1 / 0", "ZeroDivisionError"),
        ("INPUT = '1,4,8,8'", "INPUT is '1,4,8,8'"),
        ("INPUT = torch.rand(1, 4, 8, 8)", "INPUT is tensor("),
    ],
)
def test_an_input_that_cannot_be_made_is_named(text, expected, tmp_path, capsys):
    path = tmp_path / "bad_input.py"
    path.write_text(SOURCE.replace("INPUT = (1, 4, 8, 8)", text))
    assert run(["count", "--model", f"{path}:Odd"]) == 2
    error = capsys.readouterr().err
    assert "making its INPUT (a shape, or a function that returns the inputs), failed" in error
    assert expected in error
    assert error.count("\n") == 1
