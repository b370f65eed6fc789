"""What runs is seen: which layer, how often, in which layout, forward and backward, however the model is written."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convbench.errors import InputError
from convbench.profile.facts import facts_of, gridding
from convbench.profile.look import inspect
from convbench.profile.model import MIXED_LAYOUT
from convbench.profile.watch import Layer, Watch, forward, tensors, training, why_no_backward
from convbench.suites.traced import Subject


class Odd(nn.Module):
    """A loop over a shared module, a functional call in a branch, a transposed layer, a dictionary of outputs."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Conv2d(4, 4, 3, padding="same", bias=False)
        self.weight = nn.Parameter(torch.randn(6, 2, 3, 3))
        self.up = nn.ConvTranspose2d(6, 4, 2, 2)

    def forward(self, x, times=3):
        for _ in range(times):
            x = self.shared(x)
        if x.sum() == x.sum():
            x = F.conv2d(x, self.weight, stride=2, padding=1, groups=2)
        return {"up": self.up(x), "count": 3, "text": "x"}


def subject(model, *args, **kwargs):
    return Subject("net", model.eval(), args, kwargs, "--input")


def calls(model, run, *args, **kwargs):
    watch = Watch(subject(model, *args, **kwargs), run, "cpu")
    watch()
    found = {}
    for event in watch.steps[-1]:
        if isinstance(event.what, Layer):
            key = (event.what.name, event.what.pass_)
            found[key] = found.get(key, 0) + 1
    return found


STEP = {
    ("shared", "forward"): 3, ("model", "forward"): 1, ("up", "forward"): 1,
    ("up", "data_gradient"): 1, ("up", "weight_gradient"): 1, ("model", "data_gradient"): 1,
    ("model", "weight_gradient"): 1, ("shared", "data_gradient"): 2, ("shared", "weight_gradient"): 3,
}  # fmt: skip


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: torch.compile(m, backend="eager")])
def test_loops_branches_and_shared_weights_are_counted_by_layer_in_both_directions(wrap):
    """The input needs no gradient, so the first of three calls of the shared layer has no data gradient."""
    assert calls(wrap(Odd()), training, torch.randn(1, 4, 8, 8)) == STEP
    assert calls(wrap(Odd()), forward, torch.randn(1, 4, 8, 8), times=1) == {
        ("shared", "forward"): 1, ("model", "forward"): 1, ("up", "forward"): 1,
    }  # fmt: skip


def test_splitting_a_backward_pass_leaves_the_gradients_as_they_are():
    model, x = Odd(), torch.randn(2, 4, 8, 8)
    training(subject(model, x))
    want = [p.grad.clone() for p in model.parameters()]
    Watch(subject(model, x), training, "cpu")()
    for p, gradient in zip(model.parameters(), want, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_hooks_and_modes_are_gone_afterwards_even_if_the_model_raises():
    model = Odd()
    with pytest.raises(InputError):
        Watch(subject(model, torch.randn(1, 5, 8, 8)), forward, "cpu")()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not torch.utils._python_dispatch._get_current_dispatch_mode()


def test_layouts_and_what_repacks_them():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)

        def forward(self, x):
            y = self.b(self.a(x).contiguous(memory_format=torch.channels_last))
            return self.b(y.contiguous())

    watch = Watch(subject(Net(), torch.randn(1, 4, 9, 9)), forward, "cpu")
    watch()
    what = [event.what for event in watch.steps[0]]
    assert [w.layout for w in what if isinstance(w, Layer)] == ["nchw", "channels_last", MIXED_LAYOUT]
    assert [w for w in what if str(w).startswith("repack")] == [
        "repack nchw to channels_last", "repack channels_last to nchw",
    ]  # fmt: skip


def test_a_bias_and_its_absence_are_kept_through_the_backward_pass():
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=True), nn.Conv2d(2, 2, 1, bias=False))
    watch = Watch(subject(model, torch.randn(1, 2, 4, 4)), training, "cpu")
    watch()
    biases = {(e.what.name, e.what.pass_): e.what.spec.bias for e in watch.steps[0] if isinstance(e.what, Layer)}
    assert biases == {
        ("0", "forward"): True, ("0", "weight_gradient"): True,
        ("1", "forward"): False, ("1", "data_gradient"): False, ("1", "weight_gradient"): False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("decorate", "reason"),
    [
        (torch.no_grad(), "no output depends on its parameters"),
        (lambda f: lambda self, x: f(self, x).detach_().numpy(), "no output depends"),
        (lambda f: lambda self, x: self.weight.mul_(1) + f(self, x), "RuntimeError: a leaf Variable"),
    ],
)
def test_a_model_without_a_backward_pass_says_why(decorate, reason):
    class Net(nn.Conv2d):
        forward = decorate(nn.Conv2d.forward)

    assert reason in why_no_backward(subject(Net(2, 2, 1), torch.randn(1, 2, 4, 4)))
    assert why_no_backward(subject(nn.Conv2d(2, 2, 1), torch.randn(1, 2, 4, 4))) == ""


def test_floating_tensors_are_found_in_any_output():
    class Output:
        def __init__(self, **values):
            self.__dict__.update(values)

    a, b, c = torch.rand(3, 1)
    found = tensors({"a": (a, [torch.tensor(1)]), "b": Output(b=b, inner=[c], name="x"), "c": None})
    assert [t.item() for t in found] == [t.item() for t in (a, b, c)]


def test_denormal_numbers_are_counted_by_layer():
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 2, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[1].weight.copy_(torch.tensor([1e-40, 0.0, 1.0, -1e-39]).view(1, 1, 2, 2))
    x = torch.tensor([1e-41, 0.0, 1.0, 2.0]).view(1, 1, 2, 2)
    facts = facts_of(inspect(subject(model, x)))
    assert facts.weight_denormals == {"1": 2}
    assert facts.input_denormals == {"0": 1, "1": 1}


def convolutions(*layers):
    return nn.Sequential(*(nn.Conv2d(2, 2, r, dilation=d, padding=d * (r // 2), stride=s) for r, d, s in layers))


@pytest.mark.parametrize(
    ("layers", "chains"),
    [
        ([(3, 2, 1), (3, 2, 1)], [([("0", 2), ("1", 2)], 25 / 81)]),
        ([(3, 2, 1), (1, 1, 1), (3, 4, 1), (3, 1, 1), (3, 2, 1)], [([("0", 2), ("2", 4)], 49 / 169)]),
        ([(3, 1, 1), (3, 2, 1), (3, 5, 1)], []),
        ([(3, 2, 1), (3, 2, 2)], []),
    ],
)
def test_gridding_is_a_chain_of_rates_with_a_common_factor(layers, chains):
    found = gridding(inspect(subject(convolutions(*layers), torch.rand(1, 2, 16, 16))))
    assert [(chain.layers, chain.coverage) for chain in found] == chains


def test_branches_on_one_input_are_no_chain():
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.branches = nn.ModuleList(nn.Conv2d(2, 2, 3, dilation=d, padding=d) for d in (6, 12, 18))

        def forward(self, x):
            return sum(branch(x) for branch in self.branches)

    assert gridding(inspect(subject(Pyramid(), torch.rand(1, 2, 16, 16)))) == []


def test_branches_of_several_layers_are_no_chain_and_a_chain_before_them_is_kept():
    """DeepLabV3+ on a dilated MobileNet: each branch is a depthwise-separable pair."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Conv2d(2, 2, 3, dilation=2, padding=2) for _ in range(2))
            pairs = ((nn.Conv2d(2, 2, 3, dilation=d, padding=d, groups=2), nn.Conv2d(2, 2, 1)) for d in (3, 9, 27))
            self.branches = nn.ModuleList(nn.Sequential(*pair) for pair in pairs)

        def forward(self, x):
            x = self.b(torch.relu(self.a(x))) + x
            return sum(branch(x) for branch in self.branches)

    (chain,) = gridding(inspect(subject(Net(), torch.rand(1, 2, 16, 16))))
    assert chain.layers == [("a", 2), ("b", 2)]
