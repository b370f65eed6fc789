"""What is measured beside the model's own layers, and what becomes of it."""

import pytest

from convbench.profile.cold import MOST_BYTES, flush_bytes, measure_cold
from convbench.profile.extras import cliffs, neighbour_cases, pair_cases, separables
from convbench.registry import registry
from convbench.results import Environment, Record, RecordedRow
from convbench.spec import ConvSpec
from tests.convbench.profile.test_advice import PEAKS, row


def timed(case, spec, median_s, implementation="torch.aten"):
    """A measured row of a record, its interval 1% on each side."""
    return RecordedRow(
        run_id="r", machine="m", device="cpu", suite="model", case=case, operator=spec.operator, kind=spec.kind,
        pass_="forward", dtype="float32", layout="nchw", n=spec.n, c=spec.c, h=spec.h, w=spec.w, k=spec.k, r=spec.r,
        s=spec.s, stride_h=spec.stride[0], stride_w=spec.stride[1], padding_h=spec.padding[0],
        padding_w=spec.padding[1], dilation_h=1, dilation_w=1, groups=spec.groups, output_padding_h=0,
        output_padding_w=0, implementation=implementation, status="ok", median_s=median_s, ci_low_s=0.99 * median_s,
        ci_high_s=1.01 * median_s,
    )  # fmt: skip


def record(*rows):
    environment = Environment(machine="m")
    return Record(convbench_version="0", run_id="r", machine="m", started="2026-01-02", environment=environment,
                  peaks=PEAKS, rows=list(rows))  # fmt: skip


DENSE = ConvSpec.create((1, 8, 10, 10), 16, 3, padding=1)  # what row() is


def test_a_pair_is_joined_by_shape_and_its_modules_are_counted_together():
    """The record has the shape under its first module's name, the longest of the two modules is another."""
    rows = [row("first", share=0.1, step_s=0.001), row("second", share=0.2, step_s=0.002)]
    rows.append(row("image", c=3, step_s=0.1))
    pair = DENSE.separable()
    (found,) = separables(rows, record(
        timed("first", DENSE, 4.0), timed("second.depthwise", pair.depthwise(), 1.0),
        timed("second.pointwise", pair.pointwise(), 1.0),
    ))  # fmt: skip
    assert (found.case, found.modules, found.share) == ("second", 2, pytest.approx(0.3))
    assert found.paper == pytest.approx(1 / (1 / 16 + 1 / 9))
    assert found.measured == pytest.approx(2.0)
    assert found.measured_low == pytest.approx(2.0 * 0.99 / 1.01)
    assert found.roofline > 1


def test_the_longest_dense_layers_are_measured_with_their_pairs():
    rows = [row(f"layer{i}", k=16 * (i + 1), step_s=0.001 * i) for i in range(5)]
    cases = pair_cases([*rows, row("pointwise", kind="pointwise", r=1, s=1, padding_h=0, padding_w=0, step_s=1.0)])
    assert [case.name for case in cases if case.spec.kind == "standard"] == ["layer4", "layer3"]
    assert sum(case.spec.kind == "depthwise" for case in cases) == 1  # both have the same


def test_a_layer_slower_than_one_with_more_channels_is_a_cliff():
    uneven = row("uneven", c=65, k=129)
    others = [row("even", c=16, k=32, h=16, w=16), row("grouped", c=18, k=18, h=8, w=8, groups=18, kind="depthwise")]
    case, size = neighbour_cases([uneven, *others])
    assert (case.spec.c, case.spec.h, case.spec.k) == (80, 10, 144)
    assert (size.spec.c, size.spec.h, size.spec.w, size.spec.k) == (65, 16, 16, 129)
    own = ConvSpec.create((1, 65, 10, 10), 129, 3, padding=1)
    (found,) = cliffs([uneven], [timed("uneven", own, 2.0), timed("uneven.even", case.spec, 1.0)])
    assert (found.more_c, found.more_k, found.speedup) == (80, 144, 2.0)
    assert cliffs([uneven], [timed("uneven", own, 1.01), timed("uneven.even", case.spec, 1.0)]) == []
    (found,) = cliffs([uneven], [timed("uneven", own, 2.0), timed("uneven.even", size.spec, 1.0)])
    assert (found.h, found.more_h, found.more_c) == (10, 16, 65)


def test_cold_weights_are_timed_once_a_call_and_only_where_there_are_weights_and_a_time():
    """The middle of nine times; the gradient of the weights reads none."""
    spent = []

    def timer(call, calls):
        call()
        spent.append(calls)
        return float(len(spent))

    rows = [row("a", isolated_s=1.0), row("same", isolated_s=1.0), row("untimed", k=32),
            row("a", pass_="weight_gradient", isolated_s=1.0),
            row("last", isolated_s=1.0, layout="channels_last", pass_="data_gradient")]  # fmt: skip
    caches = {"L1": {"bytes": 2**15}, "L2": {"bytes": 2**20}}
    implementations = registry().select(["torch.aten", "torch.channels_last"])
    found = measure_cold(rows, implementations, timer, Environment(machine="m", cpu={"caches": caches}))
    assert [key[1] for key in found] == ["forward", "data_gradient"]
    assert [interval.value for interval in found.values()] == [5.0, 14.0]
    assert spent == [1] * 18


@pytest.mark.parametrize(
    ("caches", "size"), [({"L2": {"bytes": 2**20}}, 2**21), ({}, 2**26), ({"L3": {"bytes": 2**40}}, MOST_BYTES)]
)
def test_caches_are_filled_twice_over_within_reason(caches, size):
    assert flush_bytes("cpu", Environment(machine="m", cpu={"caches": caches})) == size
