"""The built-in models: published parameters and MACs, the sizes they take, dense against separable."""

import pytest
import torch

from convbench import count, models
from convbench.models.blocks import conv_block
from convbench.models.classifier import classifier
from convbench.models.deeplab import deeplab
from convbench.models.fully_connected import fully_connected
from convbench.models.mobilenet_v1 import mobilenet_v1
from convbench.models.resnet import resnet
from convbench.models.unet import unet
from convbench.suites import ModelSource, resolve


def params(model):
    return sum(p.numel() for p in model.parameters())


# Sources: ground truth of the papers and of torchvision; U-Net from Buda et al.'s published model (torch.hub)
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (mobilenet_v1(), 4_231_976),
        (mobilenet_v1(separable=False), 29_294_088),
        (resnet(), 11_689_512),
        (unet(), 7_763_041),
    ],
)
def test_published_parameters(model, expected):
    assert params(model) == expected


@pytest.mark.parametrize(
    ("name", "network_macs", "conv_macs"),
    [("mobilenet_v1", 568_740_352, 567_716_352), ("resnet", 1_814_073_344, 1_814_073_344 - 512_000)],
)
def test_published_macs(name, network_macs, conv_macs):
    suite = resolve(ModelSource(name))
    assert sum(layer.count * count.macs(layer.spec) for layer in suite.layers) == conv_macs
    assert conv_macs + sum(other.macs for other in suite.others) == network_macs


@pytest.mark.parametrize("name", models.names())
def test_every_model_runs_on_the_input_it_names(name):
    model, shape = models.load(name)
    with torch.no_grad():
        y = model.eval()(torch.rand(shape))
    assert y.shape[0] == shape[0]
    assert y.dim() == 2 or y.shape[2:] == shape[2:]


@pytest.mark.parametrize("size", [(28, 28), (33, 47), (64, 32)])
@pytest.mark.parametrize(
    "make",
    [
        lambda: classifier(channels=3, pooling="global"),
        lambda: mobilenet_v1(10, width=0.25),
        lambda: resnet(10, width=0.125, small_images=True),
        lambda: deeplab(10, width=4),
    ],
)
def test_global_pooling_takes_any_size(make, size):
    with torch.no_grad():
        assert make().eval()(torch.rand(2, 3, *size)).shape[:2] == (2, 10)


def test_the_fully_connected_form_says_what_size_it_needs():
    with pytest.raises(ValueError, match=r"images of 28x28.*image=\(H, W\).*pooling='global'"):
        classifier()(torch.rand(1, 1, 32, 32))
    with pytest.raises(ValueError, match="pooling='mean'"):
        classifier(pooling="mean")
    with pytest.raises(ValueError, match="fewer blocks"):
        classifier(image=(8, 8), blocks=4)
    with pytest.raises(ValueError, match="multiples of 16"):
        unet()(torch.rand(1, 3, 40, 64))


def test_separable_pairs_save_what_the_formula_says():
    dense, separable = conv_block(64, 128, separable=False), conv_block(64, 128, separable=True)
    weights = [sum(p.numel() for p in block.parameters() if p.dim() == 4) for block in (dense, separable)]
    assert weights[1] / weights[0] == pytest.approx(1 / 128 + 1 / 9)


@pytest.mark.parametrize("make", [classifier, mobilenet_v1, resnet, unet, deeplab])
def test_separable_has_fewer_parameters_and_the_same_output(make):
    models_ = [make(separable=separable).eval() for separable in (False, True)]
    assert params(models_[1]) < params(models_[0])
    name = make.__name__
    with torch.no_grad():
        shapes = {model(torch.rand(models.load(name)[1])).shape for model in models_}
    assert len(shapes) == 1


def test_one_output_depends_on_every_input_of_the_fully_connected_network_only():
    x = torch.rand(1, 1, 28, 28, requires_grad=True)
    fully_connected().eval()(x)[0, 0].backward()
    assert (x.grad != 0).float().mean() > 0.99


def test_a_wider_width_multiplier_follows_the_paper():
    # Table 7 of the MobileNets paper: 0.75 has 2.6M parameters, 0.5 has 1.3M, 0.25 has 0.5M
    for width, published in ((0.75, 2.6e6), (0.5, 1.3e6), (0.25, 0.5e6)):
        assert params(mobilenet_v1(width=width)) == pytest.approx(published, rel=0.06)
