"""fold: the same results from a model for inference."""

import pytest
import torch
from torch import nn

import convbench
from convbench.errors import InputError
from convbench.models import mobilenet_v1, resnet, unet
from convbench.nn import Conv2d, DepthwiseSeparableConv2d, fold

MODELS = {
    "mobilenet_v1": (lambda: mobilenet_v1.mobilenet_v1(10, width=0.25), (2, 3, 64, 64)),
    "resnet": (lambda: resnet.resnet(10, width=0.125, blocks=(1, 1)), (2, 3, 64, 64)),
    "unet": (lambda: unet.unet(2, width=8, depth=2), (1, 3, 32, 32)),
}


def trained(make):
    """With running statistics and weights of a batch norm that are not those of the beginning."""
    torch.manual_seed(0)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


class Torchvisions(nn.Module):
    """Written as torchvision's networks are: a ReLU that is called in several places, a sum."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + x).mean((2, 3))


class Shared(nn.Module):
    """A convolution with two users, another called twice."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.twice = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.first(x)
        return torch.relu(self.twice(torch.relu(self.twice(self.norm(x) + x))))


MODELS |= {"torchvision's style": (Torchvisions, (2, 3, 9, 9)), "shared layers": (Shared, (2, 3, 9, 9))}


def kinds(model):
    return {type(module) for module in model.modules()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("implementation", [None, "numba.auto"])
def test_the_same_results(name, implementation):
    make, size = MODELS[name]
    model, x = trained(make), torch.rand(size)
    folded = fold(model, implementation)
    with torch.inference_mode():
        wanted = model(x)
        torch.testing.assert_close(folded(x), wanted, rtol=1e-3, atol=1e-3)
        assert torch.equal(model(x), wanted), "the model itself is as it was"
    if name != "shared layers":
        assert nn.BatchNorm2d in kinds(model) and nn.BatchNorm2d not in kinds(folded)
        assert (Conv2d in kinds(folded)) == (implementation is not None)


def test_what_ran_is_counted_and_gradients_exist():
    model = fold(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval(), "numba.direct", strict=True)
    x = torch.rand(1, 3, 9, 9, requires_grad=True)
    with convbench.use_kernels("torch.aten") as used:
        with torch.no_grad():
            inference = model(x)
        y = model(x)
    torch.testing.assert_close(inference, y)
    y.sum().backward()
    assert x.grad.abs().sum() > 0
    assert next((r.implementation, r.pass_, r.count) for r in used.rows) == ("numba.direct", "forward", 2)


def test_what_torch_computes_is_rectified_too():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, dtype=torch.float64), nn.ReLU())
    folded, x = fold(model, "numba.auto"), torch.rand(1, 3, 9, 9, dtype=torch.float64)
    with torch.inference_mode(), pytest.warns(UserWarning, match="runs on torch"):
        assert torch.equal(folded(x), model(x))


def test_statistics_of_the_batch_cannot_be_folded():
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    folded = fold(nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.Conv2d(8, 8, 1), nn.Tanh()))
    assert {nn.Conv2d, nn.BatchNorm2d, nn.Tanh} <= kinds(folded)


def test_modules_that_cannot_be_traced_are_folded_part_by_part():
    folded = fold(trained(MODELS["unet"][0]), "numba.auto")
    assert type(folded) is unet.UNet
    with pytest.raises(ValueError, match="multiples of 4"):
        folded(torch.rand(1, 3, 30, 30))


def test_pairs_run_in_one_kernel():
    layers = [nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    layers += [nn.Conv2d(16, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 8, 1)]
    model = trained(lambda: nn.Sequential(*layers))
    folded, x = fold(model, "numba.auto", strict=True), torch.rand(2, 16, 20, 20)
    with torch.inference_mode(), convbench.use_kernels("torch.aten") as used:
        torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)
    ran = [r.implementation for r in used.rows]
    assert ran.count("numba.auto") == 2, "the pair, and the convolution behind it"
    assert DepthwiseSeparableConv2d in kinds(folded)
    y = folded(x)
    assert y.requires_grad
    torch.testing.assert_close(y, model(x), rtol=1e-4, atol=1e-4)


def test_unknown_implementation():
    with pytest.raises(InputError, match=r"numba\.nothing"):
        fold(nn.Sequential(nn.Conv2d(3, 8, 3)), "numba.nothing")
