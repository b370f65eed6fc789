"""Architectures as torchvision and timm write them: every convolution is seen, forward and backward, and counted."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from convbench.profile.counts import GROUPED, counts
from convbench.profile.layers import add_fields, rows
from convbench.profile.look import inspect
from convbench.profile.watch import Watch, training
from convbench.suites.traced import Subject


def conv(c, k, kernel=3, **more):
    return nn.Sequential(
        nn.Conv2d(c, k, kernel, padding=kernel // 2, bias=False, **more), nn.BatchNorm2d(k), nn.ReLU6(True)
    )


class Bottleneck(nn.Module):
    """torchvision.models.resnet."""

    def __init__(self, c=8, k=16, stride=2):
        super().__init__()
        self.body = nn.Sequential(conv(c, 4, 1), conv(4, 4, stride=stride), conv(4, k, 1))
        self.downsample = nn.Conv2d(c, k, 1, stride, bias=False)

    def forward(self, x):
        return F.relu(self.body(x) + self.downsample(x), inplace=True)


class InvertedResidual(nn.Module):
    """timm's EfficientNet block: padding as in TensorFlow, squeeze and excitation, drop path."""

    def __init__(self, c=8, wide=16):
        super().__init__()
        self.expand = nn.Conv2d(c, wide, 1, bias=False)
        self.depthwise = nn.Conv2d(wide, wide, 3, 2, groups=wide, bias=False)
        self.reduce, self.gate = nn.Conv2d(wide, 4, 1), nn.Conv2d(4, wide, 1)
        self.project = nn.Conv2d(wide, c, 1, bias=False)

    def forward(self, x):
        y = F.silu(self.depthwise(F.pad(self.expand(x), (0, 1, 0, 1))))
        y = y * self.gate(F.silu(self.reduce(y.mean((2, 3), keepdim=True)))).sigmoid()
        return self.project(y)


class ConvNeXt(nn.Module):
    """timm.models.convnext: a depthwise layer, then channels last, where 1x1 convolutions are linear layers."""

    def __init__(self, c=8):
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c)
        self.wide, self.narrow = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)
        self.gamma = nn.Parameter(torch.ones(c))
        self.down = nn.Conv2d(c, 2 * c, 2, 2)

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = (self.gamma * self.narrow(F.gelu(self.wide(y)))).permute(0, 3, 1, 2)
        return self.down(x + y)


class Dense(nn.Module):
    """torchvision.models.densenet: all earlier features joined, computed again in the backward pass."""

    def __init__(self, c=8):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(c + 4 * n, 4, 3, padding=1) for n in range(3))

    def forward(self, x):
        features = [x]
        for layer in self.layers:
            features.append(checkpoint(lambda *f, layer=layer: layer(torch.cat(f, 1)), *features, use_reentrant=False))
        return torch.cat(features, 1)


class UpAndDown(nn.Module):
    """A U-Net with an ASPP at its bottom, which returns an ordered dictionary as torchvision.models.segmentation."""

    def __init__(self, c=8):
        super().__init__()
        self.down, self.up = nn.Conv2d(c, c, 3, 2, 1), nn.ConvTranspose2d(c, c, 2, 2)
        self.aspp = nn.ModuleList(nn.Conv2d(c, c, 3, padding=rate, dilation=rate) for rate in (1, 2, 4))
        self.head = nn.Conv2d(2 * c, 3, 1)

    def forward(self, x):
        y = sum(branch(self.down(x)) for branch in self.aspp)
        return {"out": self.head(torch.cat((self.up(y), x), 1)), "aux": None}


FIELDS = {  # of the layer named, by hand; None where it is unknown
    Bottleneck: {"body.0.0": 1, "body.1.0": 3, "body.2.0": 3, "downsample": 1},
    InvertedResidual: {"expand": 1, "depthwise": 3, "reduce": 16, "project": 16},  # 16: all of the input
    ConvNeXt: {"depthwise": 7, "down": 8},
    Dense: {"layers.0": 3, "layers.1": 5, "layers.2": 7},
    UpAndDown: {"down": 3, "aspp.2": 19, "up": None, "head": None},
}


@pytest.mark.parametrize("kind", FIELDS)
def test_every_convolution_is_seen_in_both_directions_and_agrees_with_torch(kind):
    model = kind()
    x = torch.rand(2, 8, 16, 16, requires_grad=True)
    subject = Subject("net", model.eval(), (x,), {}, "--input")
    watch = Watch(subject, training, "cpu")
    watch()
    found = rows(watch.steps, 1.0, "cpu", [], None, [])
    names = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)}
    for pass_ in ("forward", "data_gradient", "weight_gradient"):
        assert {row.case for row in found if row.pass_ == pass_} == names
    verdicts = [count.verdict for count in counts(found, subject, training) if count.tool != "fvcore"]
    grouped = any(row.groups > 1 for row in found)
    assert verdicts == ["agrees", GROUPED if grouped else "agrees"]
    add_fields(found, inspect(subject))
    fields = {row.case: row.receptive_field_h for row in found}
    assert {name: fields[name] for name in FIELDS[kind]} == FIELDS[kind]
