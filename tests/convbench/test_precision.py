"""TF32: a precision with a name, its tolerance, and the switches that torch is timed under."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from convbench.case import Case
from convbench.operands import integers
from convbench.plugin import Implementation, Kernel
from convbench.process import precision
from convbench.registry import registry
from convbench.spec import ConvSpec
from convbench.verify import Checker

SPEC = ConvSpec.create((2, 24, 12, 12), 16, 3, padding=1)
LONG = ConvSpec.create((1, 256, 6, 6), 8, 3, padding=1)


def cut(bits: int):
    """Float32 with so many significant bits, the others cut off: the most that a GPU may do to a factor."""
    return lambda t: (t.view(torch.int32) & -(2 ** (24 - bits))).view(torch.float32)


def rounded(bits: int):
    """The same, to nearest."""
    half = 2 ** (23 - bits)
    return lambda t: cut(bits)((t.view(torch.int32) + half).view(torch.float32))


def verified(spec: ConvSpec, dtype: str, to) -> str:
    case = Case(spec, dtype=dtype)
    kernel = Kernel(lambda x, w: F.conv2d(to(x), to(w), None, spec.stride, spec.padding), "")
    implementation = Implementation("torch.invented", lambda case: "", lambda case: kernel)
    with torch.inference_mode():
        return Checker(case).before(implementation, kernel).status


@pytest.mark.parametrize("spec", [SPEC, LONG])
def test_the_tolerance_lies_between_tf32_and_anything_less(spec):
    assert verified(spec, "tf32", rounded(11)) == verified(spec, "tf32", cut(11)) == "ok"
    assert verified(spec, "tf32", rounded(8)) == "mismatch", "bfloat16's significant bits"
    assert verified(spec, "tf32", cut(9)) == "mismatch"


def test_float32_does_not_pass_in_tf32():
    assert verified(SPEC, "float32", lambda t: t) == "ok"
    assert verified(SPEC, "float32", rounded(11)) == "mismatch"


def test_tensors_are_float32_and_integers_are_exact_in_tf32():
    case = Case(SPEC, dtype="tf32")
    operands = integers(case, 0)
    assert all(t.dtype == torch.float32 and torch.equal(cut(11)(t), t) for t in operands.values())
    assert case.element == "float32"


def test_switches_hold_inside_only():
    """cuDNN's own default is TF32: float32 must turn it off, tf32 on, for convolutions and products."""

    def switches():
        matmul = torch.backends.cuda.matmul
        return torch.backends.cudnn.allow_tf32, matmul.allow_tf32, matmul.allow_bf16_reduced_precision_reduction

    before = switches()
    for dtype, on in (("tf32", True), ("float32", False), ("bfloat16", False)):
        with pytest.raises(KeyError), precision("cuda", dtype):
            assert switches() == (on, on, False)
            raise KeyError
        assert switches() == before


def test_every_case_runs_under_its_own_precision(monkeypatch):
    """In a run and in a verification alike."""
    from convbench import run as running
    from convbench.measure import Policy

    seen: list[bool] = []

    def spy(*arguments):
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        return []

    monkeypatch.setattr(running, "run_case", spy)
    monkeypatch.setattr(running, "verify_case", spy)
    plan = running.Plan([Case(SPEC, dtype=dtype, device="cuda") for dtype in ("tf32", "float32")], [], Policy(), 1)
    record = running.new_record(running.Environment(machine="m"), [], {})
    progress = type("Silent", (), {"done": lambda self, rows: None})()
    running.execute(plan, record, progress)
    running.verify_plan(plan, print)
    assert seen == [True, False, True, False]


def test_nothing_computes_tf32_on_a_cpu():
    case = Case(SPEC, dtype="tf32")
    answers = {name: i.supports(case) for name, i in registry().implementations.items()}
    assert {name for name, answer in answers.items() if not answer} <= {"example.pointwise"}
    assert answers["torch.aten"] == "TF32 is a precision of CUDA devices"
    assert registry().implementations["torch.aten"].supports(Case(SPEC, dtype="tf32", device="cuda:0")) == ""


def test_a_cpu_alone_is_refused_with_the_way_out():
    from convbench.errors import InputError
    from convbench.plan import check_precision

    with pytest.raises(InputError, match="--dtype tf32: a precision of CUDA devices; add --device cuda"):
        check_precision([Case(SPEC, dtype="tf32")])
    check_precision([Case(SPEC, dtype="tf32", device="cuda:0"), Case(SPEC, dtype="tf32")])
    check_precision([Case(SPEC), Case(SPEC, dtype="tf32")])
