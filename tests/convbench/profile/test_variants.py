"""A change must run, agree with the model and not be hopeless before it is sampled; the model itself is left alone."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from convbench.measure import Samples
from convbench.profile.look import Seen
from convbench.profile.variants import Change, attempt, changes, denormals_gone, difference, flags
from convbench.profile.watch import Layer, forward
from convbench.spec import ConvSpec
from convbench.suites.traced import Subject
from tests.convbench.profile.test_advice import row


def subject():
    torch.manual_seed(0)
    return Subject("net", nn.Conv2d(4, 8, 3).eval(), (torch.rand(1, 4, 6, 6),), {}, "--input")


def timer(seconds):
    return lambda call, calls: (call(), seconds)[1]


def trial(change, seconds=1.0):
    return attempt(change, subject(), forward, 1.0, timer(seconds))


def scaled(factor):
    def prepared(given):
        model = nn.Conv2d(4, 8, 3)
        model.load_state_dict({name: factor * value for name, value in given.model.state_dict().items()})
        return replace(given, model=model)

    return prepared


def fails(given):
    raise RuntimeError("no\nway")


@pytest.mark.parametrize(
    ("change", "seconds", "reason"),
    [
        (Change("fails", prepared=fails), 1.0, "RuntimeError: no way"),
        (Change("wrong", prepared=scaled(2.0)), 1.0, "its output differs by 1.0e+00"),
        (Change("nan", prepared=scaled(float("nan"))), 1.0, "its output differs by nan"),
        (Change("slow"), 3.5, "3.5 times slower in the best of 4 calls"),
    ],
)
def test_a_change_that_cannot_be_taken_says_why(change, seconds, reason):
    found = trial(change, seconds)
    assert found.call is None
    assert found.reason == reason
    assert found.outcome({"plain": Samples()}, "plain").speedup is None


def test_a_change_that_can_is_judged_by_pairs_of_the_same_round():
    found = trial(Change("close", prepared=scaled(1.001)))
    assert found.error == pytest.approx(0.001, rel=1e-3)
    samples = {"plain": Samples(1, [2.0] * 6, list(range(6))), "close": Samples(1, [1.0] * 6, list(range(6)))}
    outcome = found.outcome(samples, "plain")
    assert (outcome.speedup, outcome.ci_low, outcome.ci_high) == (2.0, 2.0, 2.0)


def test_a_change_runs_in_its_context_and_threads_are_set_back():
    inside = []

    @contextmanager
    def around():
        inside.append("in")
        yield
        inside.append("out")

    trial(Change("around", around))
    assert inside == ["in", "out"] * 6  # once for its output, once to warm up, four times timed
    before = torch.get_num_threads()
    (threads,) = [c for c in changes([], "cpu", before, before + 1) if c.name.endswith(str(before + 1))]
    assert threads.detail == {"usual": True}
    with threads.around():
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_flags_that_cost_time_are_tried_the_other_way_and_set_back():
    """On a CPU; those that are as they should be are left alone."""
    assert flags("cpu") == []
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=False):
        (switched,) = flags("cpu")
        with switched.around():
            assert torch.backends.mkldnn.enabled
        assert not torch.backends.mkldnn.enabled
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        (free,) = flags("cpu")
        with free.around():
            assert not torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        assert [change.name for change in flags("cuda:0")] == [
            "cudnn.benchmark on", "TF32 on", "cudnn.deterministic off",
        ]  # fmt: skip
        with flags("cuda:0")[0].around():
            assert torch.backends.cudnn.benchmark
            assert torch.backends.cudnn.deterministic
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
        assert flags("cuda:0") == []


def seen(weights, inputs):
    layer = Layer("a", ConvSpec.create((1, 4, 6, 6), 8, 3), "float32", "nchw", "forward")
    return Seen(layer, inputs, weights, None)


def test_denormal_numbers_are_flushed_in_the_change_alone():
    def half():
        return (torch.full((1,), torch.finfo(torch.float32).tiny) / 2).item()

    (flushing,) = denormals_gone([seen(0, 1)], "cpu")
    with flushing.around():
        assert half() == 0
        with flushing.around():
            pass
        assert half() == 0
    assert half() > 0
    names = [change.name for change in denormals_gone([seen(0, 0), seen(1, 0)], "cpu")]
    assert names == ["no denormal weights", "flush denormals"]
    assert denormals_gone([seen(0, 0)], "cpu") == denormals_gone([seen(0, 1)], "cuda:0") == []


def test_the_kernels_that_promise_most_are_tried_one_by_one():
    def wins(name, k, isolated, calls=1):
        return row(name, k=k, calls=calls, swap_implementation="numba.direct", isolated_s=isolated, best_s=0.001)

    rows = [wins("a", 16, 0.002), wins("b", 32, 0.0015, calls=4), wins("c", 48, 0.0011), wins("d", 64, 0.009)]
    tried = [change for change in changes(rows, "cuda:0", 2, 2) if change.name.startswith("kernel")]
    assert [change.name.partition(" k")[2].partition(" ")[0] for change in tried] == ["", "64", "32", "16"]
    assert len(tried[0].detail["use_kernels"]) == 5
    key = "conv2d 1x8x10x10 k64 3x3 s1 p1 d1 g1 forward"
    assert tried[1].detail["use_kernels"] == {key: "numba.direct", "*": "torch.aten"}
    alone = [change.name for change in changes(rows[:1], "cuda:0", 2, 2)]
    assert "kernels" in alone
    assert not [name for name in alone if name.startswith("kernel ")]


def test_layout_and_denormals_are_changed_in_a_copy():
    given = subject()
    with torch.no_grad():
        given.model.weight[0, 0, 0, 0] = 1e-40
    (layout,) = [c for c in changes([row()], "cuda:0", 2, 2) if c.name == "channels_last"]
    last = layout.prepared(given)
    assert last.model.weight.is_contiguous(memory_format=torch.channels_last)
    assert last.args[0].is_contiguous(memory_format=torch.channels_last)
    assert denormals_gone([seen(1, 0)], "cuda:0")[0].prepared(given).model.weight[0, 0, 0, 0] == 0
    assert given.model.weight[0, 0, 0, 0] > 0
    assert given.model.weight.is_contiguous()


def test_outputs_are_compared_wherever_their_tensors_are():
    one, two = {"a": [torch.ones(3)], "n": 1}, {"a": [torch.full((3,), 1.1)], "n": 2}
    assert difference(one, two) == pytest.approx(0.1, rel=1e-5)
    assert difference({"n": 1}, {"n": 2}) is None
