"""fold: the same results from a model for inference."""

import pytest
import torch
from torch import nn

import convbench
from convbench.errors import InputError
from convbench.models import mobilenet_v1, resnet, unet
from convbench.nn import Conv2d, fold

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
    folded = fold(model, "numba.auto")
    x = torch.rand(1, 3, 9, 9, dtype=torch.float64)
    with torch.inference_mode(), pytest.warns(UserWarning, match="runs on torch"):
        assert torch.equal(folded(x), model(x))


def test_layers_that_share_nothing_with_the_next_stay():
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    folded = fold(nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.Conv2d(8, 8, 1), nn.Tanh()))
    assert [type(m) for m in folded] == [nn.Conv2d, nn.BatchNorm2d, nn.Conv2d, nn.Tanh]


def test_pairs_run_in_one_kernel():
    layers = [nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    layers += [nn.Conv2d(16, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 8, 1)]
    model = trained(lambda: nn.Sequential(*layers))
    folded, x = fold(model, "numba.auto", strict=True), torch.rand(2, 16, 20, 20)
    with torch.inference_mode(), convbench.use_kernels("torch.aten") as used:
        torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)
    ran = [r.implementation for r in used.rows]
    assert ran.count("numba.auto") == 2, "the pair, and the convolution behind it"
    assert next(type(m).__name__ for m in folded) == "DepthwiseSeparableConv2d"
    y = folded(x)
    assert y.requires_grad
    torch.testing.assert_close(y, model(x), rtol=1e-4, atol=1e-4)


def test_unknown_implementation():
    with pytest.raises(InputError, match=r"numba\.nothing"):
        fold(nn.Sequential(nn.Conv2d(3, 8, 3)), "numba.nothing")
