"""What an interrupt leaves, what torch's own tools say of the same step, and the scalars of a profile."""

import json
import signal
import sys

import pytest
import torch
from torch import nn

from convbench.cli.main import run
from convbench.errors import EXIT_BUG
from convbench.profile import session
from convbench.profile.counts import GROUPED, counts
from convbench.profile.export import markdown
from convbench.profile.layers import rows
from convbench.profile.model import OtherOperator
from convbench.profile.page import page
from convbench.profile.profiler import STEPS, Profiled, profiled
from convbench.profile.tensorboard import scalars, write
from convbench.profile.watch import Watch, forward, training
from convbench.suites.traced import Subject
from tests.convbench.profile.test_advice import profile, step
from tests.convbench.profile.test_cli import QUICK, known_peaks

__all__ = ["known_peaks"]  # a fixture

SOURCE = "from torch import nn\nINPUT = (1, 3, 6, 6)\n\n\ndef net():\n    return nn.Conv2d(3, 8, 3)\n"
STAGES = {
    "execute": [
        "layers alone",
        "layers alone with cold weights",
        "other shapes and types of the layers",
        "changes to the whole step",
        "torch.profiler",
    ],
    "sample": ["changes to the whole step", "torch.profiler"],
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "interrupted_net.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupt_keeps_what_is_finished_and_names_the_rest(stage, file, tmp_path, monkeypatch, capsys):
    """A real signal, once the stage has done its work but for returning."""
    finished = getattr(session, stage)

    def interrupted(*arguments, **options):
        finished(*arguments, **options)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(session, stage, interrupted)
    before = signal.getsignal(signal.SIGTERM)
    out = tmp_path / "out"
    assert run(["profile", f"{file}:net", *QUICK, "--pass", "forward", "--out", str(out), "--json"]) == 130
    found = json.loads((out / "profile.json").read_text())
    assert json.loads(capsys.readouterr().out)["missing"] == found["missing"] == STAGES[stage]
    (row,) = found["rows"]
    assert row["case"] == "model"
    assert row["isolated_s"]  # every stage comes after this one's measurement
    assert bool(found["variants"]) == (stage != "execute")
    assert all(variant["speedup"] for variant in found["variants"] if not variant["reason"])
    assert "Interrupted" in (out / "profile.md").read_text()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_bug_keeps_what_is_finished_too(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(session, "measure_cold", lambda *_: 1 // 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    out = tmp_path / "out"
    assert run(["profile", f"{file}:net", *QUICK, "--pass", "forward", "--out", str(out)]) == EXIT_BUG
    assert "ZeroDivisionError" in capsys.readouterr().err.splitlines()[-1]
    found = json.loads((out / "profile.json").read_text())
    assert found["missing"][0] == "layers alone with cold weights" and found["rows"][0]["isolated_s"]


def test_an_interrupt_before_a_step_was_timed_leaves_nothing(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(session, "begin", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    assert run(["profile", f"{file}:net", *QUICK, "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "convbench: interrupted"
    assert list((tmp_path / "out").iterdir()) == []


def test_page_and_markdown_say_what_an_interrupt_left_out():
    found = profile(missing=["changes to the whole step"])
    for text in (page(found), markdown(found)):
        assert "changes to the whole step" in text
    assert "Interrupted" not in markdown(profile())


# torch's own tools ----------------------------------------------------------------------------------


def subject(model, *inputs):
    return Subject("net", model.eval(), inputs, {}, "--input")


def test_torch_profiler_sees_the_same_operators():
    ready = subject(nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)), torch.rand(1, 2, 9, 9))
    seen = profiled(lambda: training(ready), "cpu")
    calls, seconds = seen.operators["aten::convolution"]
    assert (calls, seen.operators["aten::convolution_backward"][0]) == (2, 2)
    assert seconds > 0
    names = [event.get("name") for event in json.loads(seen.trace)["traceEvents"]]
    assert names.count("aten::convolution") == 2 * STEPS


def test_a_model_that_torchs_own_tools_cannot_run_loses_nothing():
    def fails():
        raise RuntimeError("not under\na profiler")

    seen = profiled(fails, "cpu")
    seen.add_to(found := step())
    assert (found.profiler_reason, seen.trace) == ("RuntimeError: not under a profiler", b"")
    (other,) = [c for c in counts([], subject(nn.Conv2d(2, 2, 1)), lambda _: fails()) if c.tool != "fvcore"]
    assert other.verdict == "it failed: RuntimeError: not under a profiler"


def test_its_times_stand_beside_what_was_watched():
    others = [OtherOperator(operator=name, calls=1, step_s=1.0, share=0.1) for name in ("relu", "repack nchw to x")]
    found = step(operators=others)
    Profiled({"aten::relu": (1, 0.5), "aten::convolution": (2, 3.0), "aten::convolution_backward": (1, 4.0)}).add_to(
        found
    )
    assert found.profiler_convolutions_s == 7.0
    assert [other.profiler_s for other in found.operators] == [0.5, None]
    Profiled().add_to(untouched := step())
    assert untouched.profiler_convolutions_s is None


def counted(model, passes, change=lambda found: found):
    ready = subject(model, torch.rand(1, 4, 8, 8))
    watch = Watch(ready, passes, "cpu")
    watch()
    return {
        (c.tool, c.what.partition(",")[0]): c
        for c in counts(change(rows(watch.steps, 1.0, "cpu", [], None, [])), ready, passes)
    }


def test_counts_agree_with_fvcore_and_torch_and_a_known_error_is_explained():
    pytest.importorskip("fvcore")
    plain = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ConvTranspose2d(4, 2, 2, 2, bias=False))
    found = counted(plain, training)
    assert [count.verdict for count in found.values()] == ["agrees"] * 3
    macs = 4 * 64 * 4 * 9 + 4 * 64 * 2 * 4
    # the input needs no gradient: the first layer has a weight gradient alone
    assert found["torch.utils.flop_counter", "backward"].theirs_macs == macs + 4 * 64 * 2 * 4
    assert found["fvcore", "forward"].theirs_macs == macs
    grouped = counted(nn.Conv2d(4, 4, 3, groups=4), training)
    assert grouped["torch.utils.flop_counter", "forward"].verdict == "agrees"
    assert grouped["torch.utils.flop_counter", "backward"].verdict == GROUPED


def test_a_layer_that_we_missed_would_be_seen():
    found = counted(nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)), forward, lambda rows: rows[:1])
    assert found["torch.utils.flop_counter", "forward"].verdict.startswith("DIFFERS by 1.4")  # 36 + 16 over 36


# TensorBoard ----------------------------------------------------------------------------------------


def test_the_scalars_read_back_from_the_event_file(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = profile()
    run_folder = write(found, tmp_path)
    assert run_folder == tmp_path / found.run_id
    events = EventAccumulator(str(run_folder)).Reload()
    assert set(events.Tags()["scalars"]) == set(scalars(found)) > {"step/ms", "ms/a/forward", "share/a/forward"}
    for tag, value in scalars(found).items():
        assert [event.value for event in events.Scalars(tag)] == [pytest.approx(value)]


def test_without_tensorboard_nothing_is_measured(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert run(["profile", f"{file}:net", "--tensorboard", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'convbench[tensorboard]'" in line
