"""Convolutions that find mistakes in dense kernels, and exact comparison with torch."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from convbench.case import Case
from convbench.spec import PASSES, ConvSpec
from convbench_kernels.numba_cpu.tiles import LANES, MR, NR

TILE = NR * LANES


def spec(input, out_channels, kernel, **rest):
    return ConvSpec.create(input, out_channels, kernel, **rest)


def integers(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=generator).float()


def operands(case, seed=0):
    return [integers(case.operand_shape(name), seed + i) for i, name in enumerate(case.operand_names)]


def expected(case, arguments):
    """By torch, in float64: small integers are exact there."""
    s, values = case.spec, [a.double() for a in arguments]
    settings = {"stride": s.stride, "padding": s.padding, "dilation": s.dilation, "groups": s.groups}
    if s.is_transposed:
        settings["output_padding"] = s.output_padding
    convolve = F.conv_transpose2d if s.is_transposed else F.conv2d
    if case.pass_ == "forward":
        return convolve(values[0], values[1], values[2] if s.bias else None, **settings).float()
    x = torch.zeros(s.x_shape, dtype=torch.float64) if case.pass_ == "data_gradient" else values[0]
    w = values[1] if case.pass_ == "data_gradient" else torch.zeros(s.w_shape, dtype=torch.float64)
    dy = values[0] if case.pass_ == "data_gradient" else values[1]
    wanted = x if case.pass_ == "data_gradient" else w
    wanted.requires_grad_(True)
    return torch.autograd.grad(convolve(x, w, None, **settings), wanted, dy)[0].float()


def passes(spec):
    return [Case(replace(spec, bias=spec.bias and p == "forward"), p) for p in PASSES]


def check(implementation, case):
    """One pass, exactly."""
    arguments = operands(case)
    kept = [a.clone() for a in arguments]
    out = implementation.build(case).run(*arguments)
    assert torch.equal(out, expected(case, arguments)), f"{case}"
    assert all(torch.equal(a, b) for a, b in zip(arguments, kept, strict=True)), f"{case}: wrote to an input"


def check_all_passes(implementation, spec):
    """Every supported pass, exactly; returns how many were checked."""
    supported = [case for case in passes(spec) if not implementation.supports(case)]
    for case in supported:
        check(implementation, case)
    return len(supported)


AROUND_TILES = [MR - 1, MR, MR + 1]
PIXELS_AROUND_TILES = [LANES - 1, LANES, LANES + 1, 2 * LANES, TILE - 1, TILE, TILE + 1]
