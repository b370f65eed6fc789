"""Receptive fields along a trace, against the pixels that torch's gradient of one output position reaches."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convbench.suites import ModelSource, resolve
from convbench.suites.reach import Axis
from convbench.suites.traced import _listening, uncompiled

SIZE = 64


def traced(model, *inputs):
    """The field of every convolution of a model, in the order they run."""
    with torch.no_grad(), uncompiled(), _listening(model.eval(), inputs) as recorder:
        model(*inputs)
    return [call.field for call in recorder.calls]


def reached(model):
    """(height, width) and number of the pixels that the gradient of an output position in the middle is not 0 at."""
    for parameter in model.parameters():
        nn.init.uniform_(parameter, 0.5, 1.0)  # positive, so that nothing cancels
    x = torch.rand(1, 2, SIZE, SIZE, requires_grad=True)
    y = model.eval()(x)
    y[:, :, y.shape[2] // 2, y.shape[3] // 2].sum().backward()
    found = x.grad.abs().sum((0, 1)).nonzero()
    height, width = (int(found[:, axis].max() - found[:, axis].min()) + 1 for axis in (0, 1))
    return (height, width), len(found)


def conv(kernel=3, channels=2, **geometry):
    return nn.Conv2d(channels, channels, kernel, **geometry)


class Branches(nn.Module):
    """Two paths from one input, added or concatenated, and a convolution on both."""

    def __init__(self, one, other, join=torch.add):
        super().__init__()
        self.one, self.other, self.join = one, other, join
        self.last = nn.LazyConv2d(2, 3, padding=1)

    def forward(self, x):
        return self.last(self.join(self.one(x), self.other(x)))


class Shuffled(nn.Module):
    """Channels split, padded, joined and shuffled by functions, as in ShuffleNet and networks from TensorFlow."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(5, 1), conv((3, 1), 1), conv(3, stride=2)

    def forward(self, x):
        left, right = x.chunk(2, 1)
        x = torch.cat((self.a(F.pad(left, (1, 3, 2, 2))), self.b(F.pad(right, (0, 0, 0, 2)))), 1)
        n, c, h, w = x.shape
        return self.c(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


class Linear(nn.Module):
    """A 1x1 convolution as a linear layer on channels last (ConvNeXt), or on tokens, with what is around it."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens, self.inner, self.outer, self.norm = tokens, nn.Linear(2, 6), nn.Linear(6, 2), nn.LayerNorm(6)

    def forward(self, x):
        y = x.flatten(2).transpose(1, 2) if self.tokens else x.permute(0, 2, 3, 1)
        y = self.outer(self.norm(F.gelu(self.inner(y))))
        y = y.transpose(1, 2).reshape(x.shape) if self.tokens else y.permute(0, 3, 1, 2)
        return x + y


STACKS = {
    "plain": [conv(), nn.ReLU(), conv(5, padding=2)],
    "stride": [conv(7, stride=2, padding=3), nn.BatchNorm2d(2), nn.Hardswish(), conv(3, stride=2, bias=False), conv()],
    "shuffled": [conv(), Shuffled()],
    "channels last": [conv((3, 5), padding=1), Linear(tokens=False), conv(dilation=2)],
    "tokens": [conv(5, stride=2), Linear(tokens=True), conv((1, 3))],
    "asymmetric": [conv((3, 5), stride=(1, 2), dilation=(2, 1)), nn.SiLU(), conv((1, 3), padding=(0, 1))],
    "gridding": [conv(dilation=2), conv(dilation=2), conv(dilation=2)],
    "gridding after a stride": [conv(3, stride=2), conv(dilation=4), conv(dilation=4)],
    "pooling": [conv(), nn.AvgPool2d(3, 2, 1), nn.GELU(), nn.AvgPool2d(2), conv()],
    "padding": [nn.ZeroPad2d((0, 1, 2, 3)), conv(3, stride=2), nn.ReflectionPad2d(1), conv()],
    "adaptive": [conv(padding=1), nn.AdaptiveAvgPool2d(16), conv()],
    "residual": [conv(), Branches(conv(3, padding=1), nn.Identity())],
    "concatenated": [Branches(conv(3, padding=1), conv(5, padding=2), lambda a, b: torch.cat((a, b), 1))],
    "grouped": [conv(groups=2), nn.PReLU(), conv(1), nn.Dropout(), nn.GroupNorm(1, 2), conv()],
}  # fmt: skip


@pytest.mark.parametrize("name", STACKS)
def test_the_field_is_what_the_gradient_reaches(name):
    """Group normalisation reaches every pixel through its statistics, which are not counted: 0 apart by design."""
    model = nn.Sequential(*STACKS[name])
    x = torch.rand(1, 2, SIZE, SIZE)
    found = traced(model, x)[-1]
    if name == "grouped":
        model = nn.Sequential(*(layer for layer in model if not isinstance(layer, nn.GroupNorm)))
    assert (found.size, found.touched) == reached(model)


def test_max_pooling_reads_the_window_of_an_average():
    fields = [traced(nn.Sequential(conv(), pool(3, 2, 1), conv()), torch.rand(1, 2, 32, 32))[-1]
              for pool in (nn.MaxPool2d, nn.AvgPool2d)]  # fmt: skip
    assert fields[0] == fields[1]


def test_branches_that_leave_different_gaps_have_a_size_and_no_coverage():
    model = Branches(conv(dilation=3, padding=3), conv(dilation=2, padding=2))
    found = traced(model, torch.rand(1, 2, SIZE, SIZE))[-1]
    assert (found.size, found.touched) == (reached(model)[0], None)


def test_a_slice_of_the_image_or_one_spread_over_it_is_unknown_and_channels_are_not():
    class Cut(nn.Module):
        def __init__(self, cut):
            super().__init__()
            self.a, self.b, self.cut = conv(3), conv(3, 1), cut

        def forward(self, x):
            return self.b(self.cut(self.a(x)))

    x = torch.rand(1, 2, 16, 16)
    assert traced(Cut(lambda y: y[:, 1:]), x)[-1].size == (5, 5)
    assert traced(Cut(lambda y: y.mean(1, keepdim=True)), x)[-1].size == (5, 5)
    for cut in (
        lambda y: y[:, :1].reshape(1, 1, 7, 28),
        lambda y: y[:, :1].transpose(2, 3) @ torch.rand(14, 14),
        lambda y: y[:, :1] * F.avg_pool2d(y[:, 1:], 14, stride=1),
        lambda y: y[:, :1, 1:, 1:],
        lambda y: y[:, :1].flip(2),
        lambda y: y[:, :1].transpose(2, 3),
    ):
        assert traced(Cut(cut), x)[-1] is None


def test_operators_of_every_form_are_followed_or_unknown():
    """Scalars first, lists of tensors, tensors by name, in place, and without a tensor of an image's rank."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(), conv()

        def forward(self, x):
            x = torch.maximum(2 ** self.a(x), torch.zeros(1))
            x = torch.where(x > 0, x, 0.5).clamp_(min=0.1)
            x = torch._foreach_add([x, x], 1.0)[0] if self.training else x.mul_(2).sub(1.0)
            x.sum(), x.max(), x.flatten(1).norm(), torch.bucketize(x, torch.arange(3.0)), torch.ops.aten.relu(self=x)
            return self.b(torch.ops.aten.cat(tensors=[x], dim=1))

    fields = traced(Odd(), torch.rand(1, 2, 16, 16))
    assert fields[0].size == (3, 3)
    assert fields[1] is None or fields[1].size == (5, 5)


def test_a_mean_over_the_image_reads_all_of_it_and_so_does_what_it_multiplies():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.squeeze, self.b = conv(), nn.Linear(2, 2), conv()

        def forward(self, x):
            x = self.a(x)
            return self.b(x * torch.sigmoid(self.squeeze(x.mean((2, 3))))[:, :, None, None])

    first, last = traced(Gated(), torch.rand(1, 2, 20, 24))
    assert first == ((3, 3), 9)
    assert last == ((20, 24), 480)


@pytest.mark.parametrize("layer", [nn.ConvTranspose2d(4, 4, 2, 2), nn.Upsample(scale_factor=2), nn.PixelShuffle(2)])
def test_after_what_has_no_window_the_field_is_unknown(layer):
    fields = traced(nn.Sequential(conv(channels=4), layer, nn.LazyConv2d(2, 3)), torch.rand(1, 4, 16, 16))
    assert fields[0].size == (3, 3)
    assert fields[1:] == [None] * len(fields[1:])


def test_what_was_written_into_another_tensor_makes_it_unknown():
    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(padding=1), conv()

        def forward(self, x):
            y = torch.zeros(1, 2, 16, 16) + x
            y[:, :, 1:] = self.a(x)[:, :, 1:]
            return self.b(y)

    assert traced(Written(), torch.rand(1, 2, 16, 16))[-1] is None


def test_positions_of_two_axes_join_where_they_lie():
    one, other = Axis(-2, 0b10001, 2), Axis(0, 0b1, 2)
    assert one.joined(other) == Axis(-2, 0b10101, 2)


def test_built_in_models_have_the_fields_that_are_published():
    """Araujo, Norris, Sim (Distill 2019): MobileNetV1 315. ResNet-18 by their recurrence: 435."""
    assert resolve(ModelSource("mobilenet_v1")).receptive_fields()["13.3"].size == (315, 315)
    assert resolve(ModelSource("resnet")).receptive_fields()["5.0.branch.1.0"] == ((435, 435), 435**2)


def test_layers_of_one_shape_show_the_use_that_reads_farthest_and_known():
    """The shapes of U-Net's way down return on its way up, after an up-sampling."""
    fields = resolve(ModelSource("unet")).receptive_fields()
    assert fields["down.0.1.0"].size == (5, 5)
    assert "up.3" not in fields
