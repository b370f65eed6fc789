"""Selection: what the options choose, in which order, and what they refuse."""

import pytest

from convbench.errors import InputError
from convbench.plan import Selection, select_cases, select_devices, select_implementations
from convbench.plugin import Implementation, Kernel
from convbench.registry import REFERENCE, Registry


def implementation(name, **words):
    return Implementation(name, lambda case: "", lambda case: Kernel(print, ""), **words)


REGISTRY = Registry(
    {
        i.name: i
        for i in (
            implementation("numba.direct"),
            implementation("numba.textbook", on_request=True),
            implementation(REFERENCE),
            implementation("torch.compile", on_request=True),
        )
    },
    {"triton": "triton is not installed"},
)


def chosen(*names, **words):
    return [i.name for i in select_implementations(REGISTRY, Selection(implementations=names), **words)]


def test_the_reference_comes_first_and_slow_ones_only_by_name():
    assert chosen() == [REFERENCE, "numba.direct"]
    assert chosen("numba") == [REFERENCE, "numba.direct"]
    assert chosen("numba.textbook") == [REFERENCE, "numba.textbook"]
    assert chosen(everything=True) == [REFERENCE, "numba.direct", "numba.textbook", "torch.compile"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("numba.drect", "did you mean 'numba.direct'"),
        ("triton.depthwise", "unavailable: triton is not installed"),
        ("nonsense", "convbench list"),
    ],
)
def test_unknown_implementations_are_refused_with_the_way_out(name, message):
    with pytest.raises(InputError, match=message):
        chosen(name)


def test_without_the_reference_nothing_is_timed():
    with pytest.raises(InputError, match=r"torch.aten, the reference, is missing: torch is not installed"):
        select_implementations(Registry({}, {"torch": "torch is not installed"}), Selection())


def test_cases_are_layer_by_device_by_dtype_by_pass():
    selection = Selection(suites=("quick",), dtypes=("float32", "float64"), passes=("backward",))
    cases = select_cases(selection, "default", "forward", ["cpu"])
    first = cases[0].name
    assert [(c.dtype, c.pass_) for c in cases if c.name == first] == [
        ("float32", "data_gradient"),
        ("float32", "weight_gradient"),
        ("float64", "data_gradient"),
        ("float64", "weight_gradient"),
    ]
    assert {c.suite for c in cases} == {"quick"}
    assert len(set(cases)) == len(cases)


def test_the_default_is_forward_and_all_means_all():
    assert {c.pass_ for c in select_cases(Selection(), "quick", "forward", ["cpu"])} == {"forward"}
    everything = select_cases(Selection(passes=("all",)), "quick", "forward", ["cpu"])
    assert [c.pass_ for c in everything[:3]] == ["forward", "data_gradient", "weight_gradient"]


def test_case_patterns_choose_layers_and_must_match_some():
    names = {c.name for c in select_cases(Selection(cases=("*dw*",)), "mobilenet_v1", "forward", ["cpu"])}
    assert names
    assert all("dw" in name for name in names)
    with pytest.raises(InputError, match="no layer of quick matches"):
        select_cases(Selection(cases=("nothing",)), "quick", "forward", ["cpu"])


@pytest.mark.parametrize("name", ["toaster", "cuda:99", ""])
def test_devices_that_are_not_there_are_refused(name):
    with pytest.raises(InputError, match="--device"):
        select_devices([name])
    assert select_devices(["cpu", "cpu"]) == ["cpu"]
