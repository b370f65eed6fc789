"""use_kernels and convbench.nn on models: what a user of torch expects of them."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import convbench
from convbench.errors import ConvbenchError, InputError

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([1, 3])
EXACT = ("numba.gemm", "numba.direct", "numba.phases")


class Net(nn.Module):
    """Every kind of layer, a shared one, a functional call, 'same' padding."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.shared = nn.Conv2d(8, 8, 3, padding="same", bias=False)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.dilated = nn.Conv2d(8, 16, 3, padding=2, dilation=2)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.weight = nn.Parameter(torch.randn(5, 8, 1, 1) / 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(self.shared(self.shared(x)))
        x = F.relu(self.dilated(self.depthwise(x)))
        return F.conv2d(self.up(x), self.weight).mean((2, 3))


def step(model):
    loss = F.cross_entropy(model(IMAGES), LABELS)
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()]


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-5)


def test_a_training_step_is_torchs():
    want = step(Net())
    with convbench.use_kernels(EXACT) as used:
        got = step(Net())
    close(got, want)
    assert not used.fallbacks
    counts = {}
    for ran in used.rows:
        counts[ran.pass_] = counts.get(ran.pass_, 0) + ran.count
    # Seven calls of six layers; the images want no gradient.
    assert counts == {"forward": 7, "data_gradient": 6, "weight_gradient": 7}
    assert "k8 3x3" in str(used)


def test_backward_outside_of_the_block_is_counted_and_ours():
    with convbench.use_kernels(EXACT) as used:
        loss = F.cross_entropy(Net()(IMAGES), LABELS)
    loss.backward()
    assert {ran.pass_ for ran in used.rows} == {"forward", "data_gradient", "weight_gradient"}
    assert {ran.implementation for ran in used.rows} <= set(EXACT)


def test_outside_of_the_block_torch_is_untouched():
    with convbench.use_kernels(EXACT) as used:
        pass
    Net()(IMAGES)
    assert used.rows == []
    assert str(used) == "no convolution ran"


def test_what_falls_back_is_named_and_strict_refuses():
    x, w = torch.randn(1, 2, 5, 5, dtype=torch.float64), torch.randn(3, 2, 3, 3, dtype=torch.float64)
    with convbench.use_kernels("numba.direct") as used:
        y = F.conv2d(x, w)
    close(y, F.conv2d(x, w))
    (ran,) = used.fallbacks
    assert (ran.implementation, ran.reason) == ("torch", "numba.direct: float32 only")
    with convbench.use_kernels("numba.direct", strict=True), pytest.raises(ConvbenchError, match="float64"):
        F.conv2d(x, w)


def test_one_dimensional_convolutions_are_left_to_torch_by_name():
    with convbench.use_kernels() as used:
        F.conv1d(torch.randn(1, 2, 9), torch.randn(3, 2, 3))
    assert "two-dimensional" in used.fallbacks[0].reason
    with convbench.use_kernels(strict=True), pytest.raises(ConvbenchError, match="conv1d"):
        F.conv1d(torch.randn(1, 2, 9), torch.randn(3, 2, 3))


@pytest.mark.parametrize("wanted", ["numba.fastest", "numba", {"sideways": "numba.auto"}])
def test_an_unknown_name_is_refused_at_once(wanted):
    with pytest.raises(InputError):
        convbench.use_kernels(wanted)


def test_a_mapping_chooses_by_kind_and_pass():
    wanted = {"weight_gradient": "torch.aten", "depthwise": "numba.direct", "*": ["numba.gemm", "torch.aten"]}
    with convbench.use_kernels(wanted) as used:
        step(Net())
    by = {(ran.pass_, ran.implementation) for ran in used.rows}
    assert ("weight_gradient", "numba.direct") not in by
    assert ("forward", "numba.direct") in by  # the depthwise layer
    assert ("forward", "numba.gemm") in by
    assert ("forward", "torch.aten") in by


def test_unbatched_channels_last_empty_and_bfloat16_inputs_are_right():
    w, b = torch.randn(4, 3, 3, 3), torch.randn(4)
    cases = {
        "unbatched": IMAGES[0],
        "channels last": IMAGES.contiguous(memory_format=torch.channels_last),
        "empty": IMAGES[:0],
    }
    for x in cases.values():
        with convbench.use_kernels(EXACT):
            y = F.conv2d(x, w, b, padding=1)
        close(y, F.conv2d(x, w, b, padding=1))
        assert y.stride() == F.conv2d(x, w, b, padding=1).stride()
    half = IMAGES.bfloat16()
    with convbench.use_kernels("numba.auto") as used:
        y = F.conv2d(half, w.bfloat16())
    assert torch.equal(y, F.conv2d(half, w.bfloat16()))
    assert used.fallbacks


def test_autocast_casts_as_torch_does():
    with torch.autocast("cpu", dtype=torch.bfloat16), convbench.use_kernels("numba.auto") as used:
        y = F.conv2d(IMAGES, torch.ones(4, 3, 3, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(y, F.conv2d(IMAGES, torch.ones(4, 3, 3, 3)))
    assert (y.dtype, used.rows[0].dtype) == (torch.bfloat16, "bfloat16")


def test_no_gradient_is_computed_that_nobody_wants():
    w = torch.randn(4, 3, 3, 3, requires_grad=True)
    with convbench.use_kernels(EXACT) as used:
        F.conv2d(IMAGES, w).sum().backward()
    assert [ran.pass_ for ran in used.rows] == ["forward", "weight_gradient"]
    with torch.no_grad(), convbench.use_kernels(EXACT):
        assert not F.conv2d(IMAGES, w).requires_grad
    with torch.inference_mode(), convbench.use_kernels(EXACT):
        close(F.conv2d(IMAGES, w), F.conv2d(IMAGES, w))


def test_gradients_of_any_order_in_float64():
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    w = torch.randn(3, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    with convbench.use_kernels("numba.textbook", strict=True):
        assert torch.autograd.gradcheck(lambda x, w: F.conv2d(x, w, stride=2, padding=1), (x, w))
        assert torch.autograd.gradgradcheck(lambda x, w: F.conv2d(x, w, padding=1), (x, w))


def flops(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_flops_are_counted():
    """Forward as torch counts it; backward twice that, but for the images' gradient, which nobody wants.

    (torch's own count of a grouped convolution's weight gradient is the number of groups too high.)
    """
    torchs = flops(lambda: Net()(IMAGES))
    with convbench.use_kernels(EXACT):
        forward, whole = flops(lambda: Net()(IMAGES)), flops(lambda: step(Net()))
    stem = 2 * 2 * 8 * 8 * 8 * 3 * 3 * 3  # 2 FLOPs a MAC, N, P, Q, K, C, R, S
    assert forward == torchs
    assert whole == 3 * forward - stem


def test_a_compiled_model_runs_on_the_kernels():
    model = Net()
    with torch.no_grad():
        want = model(IMAGES)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        with convbench.use_kernels(EXACT) as used:
            close(compiled(IMAGES), want)
    assert {ran.implementation for ran in used.rows} <= set(EXACT)


LAYERS = [
    (nn.Conv2d, convbench.nn.Conv2d, (3, 6, 3), {"padding": 1, "stride": 2}),
    (nn.Conv2d, convbench.nn.Conv2d, (3, 6, 3), {"padding": 2, "padding_mode": "reflect"}),
    (nn.Conv2d, convbench.nn.Conv2d, (3, 6, (3, 2)), {"padding": "same", "bias": False}),
    (nn.ConvTranspose2d, convbench.nn.ConvTranspose2d, (3, 6, 4), {"stride": 2, "padding": 1}),
]


@pytest.mark.parametrize(("theirs", "ours", "sizes", "more"), LAYERS)
def test_a_layer_takes_torchs_arguments_and_weights(theirs, ours, sizes, more):
    torchs, mine = theirs(*sizes, **more), ours(*sizes, **more, implementation=EXACT, strict=True)
    mine.load_state_dict(torchs.state_dict())
    close(mine(IMAGES), torchs(IMAGES))


def test_an_output_size_chooses_among_those_a_stride_leaves_open():
    torchs = nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1)
    mine = convbench.nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1)
    mine.load_state_dict(torchs.state_dict())
    for size in ([31, 31], [32, 32]):
        close(mine(IMAGES, size), torchs(IMAGES, size))


def test_the_separable_layer_is_two_convolutions_in_one_kernel():
    layer = convbench.nn.DepthwiseSeparableConv2d(3, 7, 3, padding=1, implementation="numba.auto")
    x = IMAGES.clone().requires_grad_()
    with convbench.use_kernels("torch.aten") as used:  # the layer's own choice holds
        y = layer(x)
    assert [(ran.pass_, ran.implementation) for ran in used.rows] == [("forward", "numba.auto")]
    y.square().sum().backward()
    z = F.conv2d(x, layer.depthwise.weight, padding=1, groups=3)
    want = F.conv2d(z, layer.pointwise.weight, layer.pointwise.bias)
    close(y, want)
    leaves = [x, *layer.parameters()]
    for leaf, gradient in zip(leaves, torch.autograd.grad(want.square().sum(), leaves), strict=True):
        close(leaf.grad, gradient)


def test_ddp_on_two_processes_has_the_gradients_of_the_whole_batch(tmp_path):
    script = textwrap.dedent("""
        import sys, torch, torch.distributed as dist
        import convbench
        from tests.convbench.nn.test_model import EXACT, Net, IMAGES, LABELS, F
        rank, file = int(sys.argv[1]), sys.argv[2]
        dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
        model = torch.nn.parallel.DistributedDataParallel(Net())
        with convbench.use_kernels(EXACT):
            F.cross_entropy(model(IMAGES[rank:rank + 1]), LABELS[rank:rank + 1]).backward()
        if rank == 0:
            whole = Net()
            F.cross_entropy(whole(IMAGES), LABELS).backward()
            for ours, theirs in zip(model.parameters(), whole.parameters()):
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=2e-4, atol=2e-5)
    """)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-c", script]
    both = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], env=environment, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=240)[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], errors


def test_importing_convbench_loads_no_torch():
    code = "import sys, convbench; assert not {'torch', 'numba'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_layers_shape_with_or_without_a_pass_chooses_its_kernel():
    """The keys are what the report prints, with or without the bias that only the forward pass knows."""
    model = Net()
    with convbench.use_kernels("torch.aten") as used:
        model(IMAGES).sum().backward()
    dilated, shared = (next(ran.layer for ran in used.rows if sign in ran.layer) for sign in ("d2", "8x8 k8 3x3 s1"))
    wanted = {dilated: "numba.direct", f"{shared} weight_gradient": "numba.direct", "*": "torch.aten"}
    with convbench.use_kernels(wanted, strict=True) as used:
        model(IMAGES).sum().backward()
    direct = {(ran.layer.removesuffix(" bias"), ran.pass_) for ran in used.rows if ran.implementation == "numba.direct"}
    passes = ("forward", "data_gradient", "weight_gradient")
    assert dilated.endswith(" bias")
    assert direct == {(dilated.removesuffix(" bias"), p) for p in passes} | {(shared, "weight_gradient")}
    with pytest.raises(InputError, match="no layer, kind or pass"):
        convbench.use_kernels({"conv2d_dilated=x": "torch.aten"})


def test_forward_mode_derivatives_are_torchs():
    """The operators have none: a tangent of zero would be a silent lie."""
    tangent, model = torch.ones_like(IMAGES), Net().eval()
    want = torch.func.jvp(model, (IMAGES,), (tangent,))
    with convbench.use_kernels(EXACT) as used:
        close(torch.func.jvp(model, (IMAGES,), (tangent,)), want)
    assert {ran.reason for ran in used.rows} == {"forward-mode derivatives"}
    with convbench.use_kernels(EXACT, strict=True), pytest.raises(ConvbenchError, match="forward-mode"):
        torch.func.jvp(model, (IMAGES,), (tangent,))
    layer = convbench.nn.Conv2d(3, 4, 3)
    with pytest.warns(UserWarning, match="forward-mode"):
        _, got = torch.func.jvp(layer, (IMAGES,), (tangent,))
    close(got, F.conv2d(tangent, layer.weight))


def test_other_devices_are_torchs():
    with convbench.use_kernels() as used:
        y = F.conv2d(IMAGES.to("meta"), torch.empty(4, 3, 3, 3, device="meta"))
    assert (y.device.type, y.shape) == ("meta", (2, 4, 14, 14))
    assert [ran.reason for ran in used.rows] == ["tensors on meta"]


@pytest.mark.parametrize("words", [{"padding": "full"}, {"padding": "same", "stride": 2}], ids=str)
def test_padding_that_torch_refuses_is_refused(words):
    weight = torch.ones(4, 3, 3, 3)
    with pytest.raises(RuntimeError, match="padding"):
        F.conv2d(IMAGES, weight, **words)
    with convbench.use_kernels(), pytest.raises(RuntimeError, match="padding"):
        F.conv2d(IMAGES, weight, **words)


def test_torch_aten_leaves_the_layout_alone():
    """Named in a choice, it is torch on the operands as they are, not on copies of them."""
    x = IMAGES.contiguous(memory_format=torch.channels_last).requires_grad_()
    layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    with convbench.use_kernels("torch.aten") as used, torch.profiler.profile() as seen:
        y = layer(x)
        y.backward(torch.ones_like(y))
    assert {ran.implementation for ran in used.rows} == {"torch.aten"}
    assert not [event for event in seen.events() if event.name in ("aten::contiguous", "aten::clone")]


def test_activation_checkpointing_with_blocks_of_its_own():
    from torch.utils.checkpoint import checkpoint

    weight, x = torch.randn(4, 3, 3, 3), IMAGES.clone().requires_grad_()
    blocks = [convbench.use_kernels(EXACT) for _ in range(2)]
    y = checkpoint(lambda x: F.conv2d(x, weight), x, use_reentrant=False, context_fn=lambda: tuple(blocks))
    y.sum().backward()
    close(x.grad, torch.autograd.grad(F.conv2d(x, weight).sum(), x)[0])
    assert [ran.pass_ for block in blocks for ran in block.report.rows] == ["forward", "data_gradient", "forward"]


def test_a_profiler_sees_the_operators_which_nobody_calls_otherwise():
    def called():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            step(model)
        return {event.key for event in seen.key_averages()} & set(operators)

    operators = [f"convbench::convolution{which}" for which in ("", "_data_gradient", "_weight_gradient")]
    model = Net()
    with convbench.use_kernels(EXACT):
        assert called() == set(operators)
    assert not called()


def test_function_transforms_are_torchs():
    model = Net()
    weights = dict(model.named_parameters())

    def loss(weights):
        return F.cross_entropy(torch.func.functional_call(model, weights, IMAGES), LABELS)

    want = torch.func.grad(loss)(weights)
    with convbench.use_kernels(EXACT) as used:
        close(torch.func.grad(loss)(weights), want)
    assert {ran.reason for ran in used.rows} == {"transforms of torch.func"}


def test_tensors_that_a_forward_saves_pass_the_users_hooks():
    packed = []
    with convbench.use_kernels("numba.direct"), torch.autograd.graph.saved_tensors_hooks(packed.append, lambda _: None):
        F.conv2d(IMAGES.clone().requires_grad_(), torch.ones(2, 3, 3, 3, requires_grad=True))
    assert [tuple(t.shape) for t in packed] == [(2, 3, 16, 16), (2, 3, 3, 3)]
