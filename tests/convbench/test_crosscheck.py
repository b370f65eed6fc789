"""fvcore and torch.utils.flop_counter agree with our counts, or err exactly as we say they do."""

import sys

import pytest

from convbench.case import Case
from convbench.count import macs
from convbench.crosscheck import AGREES, crosscheck
from convbench.spec import PASSES, ConvSpec
from convbench.suites import builtin, names

FVCORE, TORCH = "fvcore", "torch.utils.flop_counter"


def verdicts(spec, pass_):
    rows, _ = crosscheck([Case(spec, pass_, name="x")])
    return {row["tool"]: row for row in rows}


@pytest.mark.parametrize("name", names())
def test_nothing_differs_without_an_explanation(name):
    cases = [Case(layer.spec, p, suite=name, name=layer.name) for layer in builtin(name).layers for p in PASSES]
    rows, _ = crosscheck(cases)
    assert len(rows) == 2 * len(cases)
    assert not [row for row in rows if "DIFFERS" in row["verdict"]]
    forward = [row for row in rows if row["pass"] == "forward"]
    assert {row["verdict"] for row in forward} == {AGREES}
    assert all(row["theirs_macs"] == row["ours_macs"] for row in forward)


def test_weight_gradient_of_a_grouped_convolution_is_a_known_error():
    spec = ConvSpec.create([2, 16, 8, 8], 16, 3, padding=1, groups=16)
    row = verdicts(spec, "weight_gradient")[TORCH]
    assert (row["ours_macs"], row["theirs_macs"]) == (18_432, 16 * 18_432)
    assert row["verdict"].startswith("known error")
    assert verdicts(spec, "data_gradient")[TORCH]["verdict"] == AGREES


def test_mobilenet_v1_backward_is_too_large_by_the_known_factor():
    """4.79x, both gradients of all convolutions but the first layer's data gradient, as autograd runs them."""
    layers = builtin("mobilenet_v1").layers
    cases = [
        (Case(layer.spec, p, name=layer.name), layer.count)
        for layer in layers
        for p in ("data_gradient", "weight_gradient")
        if (layer.name, p) != ("conv1", "data_gradient")
    ]
    rows, _ = crosscheck([case for case, _ in cases])
    theirs = [row["theirs_macs"] for row in rows if row["tool"] == TORCH]
    total = sum(number * times for number, (_, times) in zip(theirs, cases, strict=True))
    ours = sum(macs(case.spec, case.pass_) * times for case, times in cases)
    assert total / ours == pytest.approx(4.79, abs=0.005)


def test_fvcore_has_no_backward():
    row = verdicts(ConvSpec.create([1, 2, 5, 5], 3, 3), "data_gradient")[FVCORE]
    assert row["theirs_macs"] is None
    assert "no backward" in row["verdict"]


def test_an_unknown_difference_is_called_one(monkeypatch):
    monkeypatch.setattr("fvcore.nn.jit_handles.conv_flop_count", lambda *shapes: 7)
    assert "DIFFERS" in verdicts(ConvSpec.create([1, 2, 5, 5], 3, 3), "forward")[FVCORE]["verdict"]


def test_a_missing_tool_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fvcore.nn.jit_handles", None)
    rows, notes = crosscheck([Case(ConvSpec.create([1, 2, 5, 5], 3, 3))])
    assert [row["tool"] for row in rows] == [TORCH]
    assert any(note.startswith("fvcore is unavailable") and "pip install fvcore" in note for note in notes)
