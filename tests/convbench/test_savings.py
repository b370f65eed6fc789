"""Savings: joined by what is computed, ratios that can be checked by hand, reasons that follow from the numbers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbench import count
from convbench.case import Case
from convbench.cli.main import run
from convbench.records import spec_of
from convbench.results import Environment, Peak, Record, RecordedRow, to_json
from convbench.savings import analyse, quartets
from convbench.spec import ConvSpec
from convbench.suites import builtin

DENSE = ConvSpec.create([1, 512, 14, 14], 512, 3, padding=1)
PAIR = DENSE.separable()
DEPTHWISE, POINTWISE = PAIR.depthwise(), PAIR.pointwise()


def row(spec, implementation, median_s=None, **changes) -> RecordedRow:
    words = {
        "run_id": "r", "machine": "m", "device": "cpu", "suite": "s", "case": str(spec), "operator": spec.operator,
        "kind": spec.kind, "pass_": "forward", "dtype": "float32", "layout": "nchw", "n": spec.n, "c": spec.c,
        "h": spec.h, "w": spec.w, "k": spec.k, "r": spec.r, "s": spec.s, "stride_h": spec.stride[0],
        "stride_w": spec.stride[1], "padding_h": spec.padding[0], "padding_w": spec.padding[1],
        "dilation_h": spec.dilation[0], "dilation_w": spec.dilation[1], "groups": spec.groups,
        "output_padding_h": spec.output_padding[0], "output_padding_w": spec.output_padding[1], "bias": spec.bias,
        "implementation": implementation, "status": "ok" if median_s else "error", "median_s": median_s,
        "ci_low_s": median_s and 0.9 * median_s, "ci_high_s": median_s and 1.25 * median_s,
    }  # fmt: skip
    return RecordedRow(**(words | changes))


def record(rows, peaks=()) -> Record:
    return Record(convbench_version="0", run_id="r", machine="m", started="2026-01-01T00:00:00+00:00",
                  environment=Environment(machine="m"), peaks=list(peaks), rows=rows)  # fmt: skip


def peaks(flops_per_s, bytes_per_s):
    return [
        Peak(quantity="fma", level="register", device="cpu", dtype="float32", value=flops_per_s),
        Peak(quantity="triad", level="DRAM", device="cpu", dtype="float32", value=bytes_per_s, working_set_bytes=2**30),
    ]


MEASURED = [
    row(DENSE, "a", 8e-3, case="layer.dense"), row(DENSE, "b", 4e-3),
    row(DEPTHWISE, "a", 0.5e-3), row(DEPTHWISE, "b", 1e-3),
    row(POINTWISE, "a", 1e-3), row(POINTWISE, "b", 0.5e-3),
    row(PAIR, "a", 0.8e-3),
]  # fmt: skip


def test_ratios_by_hand():
    (saving,) = analyse(record(MEASURED))
    assert saving.paper == pytest.approx(1 / (1 / 512 + 1 / 9))
    assert saving.measured_unfused == pytest.approx(4e-3 / (0.5e-3 + 0.5e-3))
    assert saving.measured_fused == pytest.approx(4e-3 / 0.8e-3)
    assert saving.same_implementation == pytest.approx({"a": 8e-3 / 1.5e-3, "b": 4e-3 / 1.5e-3})
    assert saving.measured_unfused_low == pytest.approx(0.9 / 1.25 * 4)
    assert saving.measured_unfused_high == pytest.approx(1.25 / 0.9 * 4)
    assert (saving.dense.implementation, saving.depthwise.implementation) == ("b", "a")
    assert (saving.suite, saving.case) == ("s", "layer.dense")


def test_two_calls_are_of_one_layout():
    """The fastest depthwise call hands over channels_last, the fastest pointwise one takes NCHW: not a pair."""
    fastest = [
        row(DEPTHWISE, "c", 0.1e-3, layout="channels_last"),
        row(POINTWISE, "c", 1.2e-3, layout="channels_last"),
    ]
    (saving,) = analyse(record([*MEASURED, *fastest]))
    assert (saving.depthwise.implementation, saving.pointwise.implementation) == ("a", "b")
    assert saving.measured_unfused == pytest.approx(4)
    without = [r for r in MEASURED if spec_of(r) != DEPTHWISE]
    assert analyse(record([*without, fastest[0]]))[0].measured_unfused is None


@pytest.mark.parametrize(("flops_per_s", "expected"), [(1e12, "6.430"), (1e11, "8.654")])
def test_roofline_ratio_of_the_worked_example(flops_per_s, expected):
    (saving,) = analyse(record(MEASURED, peaks(flops_per_s, 20e9)))
    assert saving.roofline_unfused is not None
    assert f"{saving.roofline_unfused:.3f}" == expected
    assert saving.roofline_fused > saving.roofline_unfused  # the intermediate does not move


def test_taps_on_padding_are_no_use_of_the_peak():
    """Most taps of this layer meet padding; a kernel that skips them is not beyond the peak."""
    dense = ConvSpec.create([1, 64, 17, 17], 64, 3, padding=12, dilation=12)
    pair = dense.separable()
    seconds = 2 * count.valid_macs(dense) / 0.9e11
    rows = [row(dense, "a", seconds), row(pair.depthwise(), "a", 1e-4), row(pair.pointwise(), "a", 1e-4)]
    (saving,) = analyse(record(rows, peaks(1e11, 1e12)))
    assert 2 * saving.dense.macs / seconds > 1e11
    assert "dense (a) reaches 90% of the compute peak" in saving.reasons


def test_without_peaks_there_is_no_roofline_ratio():
    (saving,) = analyse(record(MEASURED))
    assert saving.roofline_unfused is None
    assert saving.dense.bound is None


@given(st.permutations(MEASURED), st.sampled_from(["", "other"]))
def test_order_and_names_do_not_matter(rows, name):
    renamed = [RecordedRow(**{**{f: getattr(r, f) for f in r.__struct_fields__}, "case": name or r.case}) for r in rows]
    (saving,) = analyse(record(renamed))
    assert saving.measured_unfused == pytest.approx(4)
    assert saving.measured_fused == pytest.approx(5)


def test_passes_dtypes_and_devices_are_not_mixed():
    moved = [
        row(DENSE, "a", 1e-3),
        row(DEPTHWISE, "a", 1e-3, device="cuda:0"),
        row(POINTWISE, "a", 1e-3, dtype="float64"),
    ]
    assert analyse(record([*moved, row(PAIR, "a", 1e-3, pass_="data_gradient")])) == []


def test_a_layer_that_differs_in_one_number_is_another_layer():
    other = ConvSpec.create([1, 512, 14, 14], 512, 3, "separable_conv2d", padding=1, dilation=1, stride=2)
    assert analyse(record([row(DENSE, "a", 1e-3), row(other, "a", 1e-3)])) == []


def test_failed_cells_leave_the_ratio_out():
    rows = [row(DENSE, "a", 4e-3), row(DEPTHWISE, "a"), row(POINTWISE, "a", 1e-3), row(PAIR, "a", 2e-3)]
    (saving,) = analyse(record(rows))
    assert saving.measured_unfused is None
    assert saving.measured_fused == pytest.approx(2)
    assert saving.reasons == []


def test_the_fused_pair_alone_is_enough_to_compare():
    (saving,) = analyse(record([row(DENSE, "a", 4e-3), row(PAIR, "a", 2e-3)]))
    assert saving.measured_fused == pytest.approx(2)


def test_bias_belongs_to_the_pointwise_half():
    dense = ConvSpec.create([1, 8, 9, 9], 4, 3, bias=True)
    pair = dense.separable()
    rows = [row(s, "a", t) for s, t in ((dense, 3e-3), (pair.depthwise(), 1e-3), (pair.pointwise(), 2e-3))]
    (saving,) = analyse(record(rows))
    assert saving.measured_unfused == pytest.approx(1)


def test_spec_of_reads_every_row_back():
    for name in ("default", "separable", "vgg16", "dcgan"):
        for layer in builtin(name).layers:
            assert spec_of(row(layer.spec, "a")) == layer.spec


# Reasons ------------------------------------------------------------------------------------------


def test_reasons_account_for_the_difference():
    (saving,) = analyse(record(MEASURED, peaks(1e12, 20e9)))
    text = "\n".join(saving.reasons)
    assert "4.00x measured against 8.84x on paper" in text
    assert "105 GFLOP/s, 45% of the dense layer's 231 GFLOP/s" in text  # 2*52,283,392/1e-3 and 2*462,422,016/4e-3
    assert "depthwise (a) is 1.7% of the pair's arithmetic and 50% of its time" in text
    assert "at 2.2 FLOP/byte, below the ridge of 50.0, it is bound by DRAM bandwidth" in text
    assert "reaches 8%" in text  # 821,248 bytes in 0.5 ms are 1.64 GB/s of 20
    assert "dense (b) reaches 21% of the compute peak" in text  # 231 GFLOP/s, 40/42 of the taps real on either axis
    assert "slower than the best two calls" not in text
    assert "gains another 1.25x" in text
    assert "fixed cost of a call" not in text


def test_short_calls_and_a_slow_fused_pair_are_named():
    rows = [row(DENSE, "a", 1e-3), row(DEPTHWISE, "a", 9e-6), row(POINTWISE, "a", 1e-4), row(PAIR, "a", 2.18e-4)]
    (saving,) = analyse(record(rows, peaks(1e9, 1e12)))
    text = "\n".join(saving.reasons)
    assert "takes 9 us: the fixed cost of a call counts" in text
    assert "fused pair (a) is 2.00x slower than the best two calls" in text
    assert "bound by arithmetic" in text


# Cases to measure ---------------------------------------------------------------------------------


def test_quartets_complete_dense_layers():
    cases = [Case(layer.spec, suite="vgg16", name=layer.name) for layer in builtin("vgg16").layers]
    found = quartets(cases)
    assert len(found) == 4 * len(cases)
    assert [case.name for case in found[:4]] == ["conv1_1", "conv1_1.depthwise", "conv1_1.pointwise", "conv1_1.fused"]


def test_quartets_are_the_separable_suite_itself():
    cases = [Case(layer.spec, suite="separable", name=layer.name) for layer in builtin("separable").layers]
    assert quartets(cases) == cases


def test_only_dense_layers_above_1x1_have_quartets():
    specs = [
        ConvSpec.create([1, 4, 8, 8], 4, 1),
        ConvSpec.create([1, 4, 8, 8], 4, 3, groups=4),
        ConvSpec.create([1, 4, 8, 8], 4, 3, groups=2),
        ConvSpec.create([1, 4, 8, 8], 4, 2, "conv_transpose2d"),
    ]
    assert quartets([Case(spec, name=str(spec)) for spec in specs]) == []


# Command ------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    loud = record(MEASURED, peaks(1e12, 20e9))
    loud.warnings.append("it was loud: be quiet")
    (tmp_path / "run.json").write_bytes(to_json(loud))
    return str(tmp_path)


def test_command_reads_a_record(stored, capsys):
    assert run(["savings", "--record", stored]) == 0
    out = capsys.readouterr().out
    for expected in ("8.84x", "6.43x", "4.00x", "5.00x", "layer.dense", "of its time", "it was loud: be quiet"):
        assert expected in out


def test_command_json_is_one_document(stored, capsys):
    assert run(["savings", "--record", stored, "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["schema_version"], document["command"]) == (1, "savings")
    assert document["warnings"] == ["it was loud: be quiet"]
    (found,) = document["rows"]
    assert found["pass"] == "forward"
    assert found["measured_unfused"] == pytest.approx(4)


def test_selection_leaves_rows_out(stored, capsys):
    assert run(["savings", "--record", stored, "--impl", "a", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["rows"]
    assert found["measured_unfused"] == pytest.approx(8e-3 / 1.5e-3)
    assert run(["savings", "--record", stored, "--pass", "data_gradient"]) == 2
    assert "no dense layer together with its separable pair" in capsys.readouterr().err


def test_nothing_to_replace_is_said_before_anything_is_measured(capsys):
    assert run(["savings", "mobilenet_v1", "--case", "pw*"]) == 2
    assert "nothing a separable pair could replace" in capsys.readouterr().err
