"""Advice from invented numbers: what is promised was measured on the whole step, the rest is named for what it is."""

import json
from html.parser import HTMLParser

import msgspec
import pytest

from convbench.profile import layers
from convbench.profile.advice import advise
from convbench.profile.export import COLUMNS, contents, markdown, to_csv, trace
from convbench.profile.model import Cliff, Facts, Gridding, LayerRow, OtherOperator, Profile, Separable, Step, Variant
from convbench.profile.page import page
from convbench.profile.profiler import Profiled
from convbench.profile.session import Outcome
from convbench.profile.variants import best_kernels
from convbench.profile.watch import Event, Layer
from convbench.results import Peak, RecordedRow
from convbench.spec import ConvSpec
from tests.convbench.test_report_browser import assert_quiet, visit
from tests.convbench.test_report_browser import pytestmark as needs_chromium

SPEC = ConvSpec.create((1, 8, 10, 10), 16, 3, padding=1)
PEAKS = [
    Peak(quantity="fma", level="register", device="cpu", dtype="float32", value=1e11),
    Peak(quantity="triad", level="DRAM", device="cpu", dtype="float32", value=1e10),
]
FILES = {"profile.json", "profile.csv", "profile.md", "profile.html", "trace.json", "torch_trace.json"}
HOSTILE = "</script><script>pwned=1</script><img src=x onerror=pwned=1>"


def row(name="a", **changes):
    values = {
        "case": name, "operator": "conv2d", "kind": "standard", "pass_": "forward", "dtype": "float32",
        "device": "cpu", "layout": "nchw", "n": 1, "c": 8, "h": 10, "w": 10, "k": 16, "r": 3, "s": 3, "stride_h": 1,
        "stride_w": 1, "padding_h": 1, "padding_w": 1, "dilation_h": 1, "dilation_w": 1, "groups": 1,
        "output_padding_h": 0, "output_padding_w": 0, "bias": False, "calls": 1, "params": 1152, "macs": 115200,
        "valid_macs": 100352, "bytes": 14208, "intensity": 14.1, "median_s": 0.001, "step_s": 0.001, "share": 0.1,
        "gflops": 0.23, "gbytes_per_s": 0.014,
    }  # fmt: skip
    return LayerRow(**values | changes)


def profile(**changes):
    step = Step(
        model="net.py:make", device="cpu", passes="forward", threads=2, median_s=0.01, eager_s=0.01, samples=20,
        watched_s=0.011, distortion=1.1, convolutions_s=0.008, convolutions_share=0.8,
    )  # fmt: skip
    values = {"run_id": "r", "machine": "m", "started": "2026-01-02", "convbench_version": "0", "step": step,
              "rows": [row()]}  # fmt: skip
    found = Profile(**values | changes)
    found.totals = layers.totals(found.rows)
    return found


def texts(**changes):
    return {advice.topic: advice.text for advice in advise(profile(**changes))}


def test_nothing_to_say_is_nothing_said():
    assert advise(profile()) == []


@pytest.mark.parametrize(
    ("ends", "said", "gain"),
    [((1.1, 1.3), "makes the step faster: 1.20x (1.10 - 1.30)", 1.2),
     ((0.8, 0.9), "makes the step slower: 1.20x (0.80 - 0.90), measured on the whole step. Leave it", None),
     ((0.9, 1.3), "makes no difference that can be told", None)],
)  # fmt: skip
def test_a_change_is_judged_by_its_interval(ends, said, gain):
    variant = Variant(name="channels_last", speedup=1.2, ci_low=ends[0], ci_high=ends[1])
    (advice,) = advise(profile(variants=[variant]))
    assert said in advice.text
    assert advice.gain == gain
    assert bool(advice.code) == (gain is not None)


def test_a_change_that_failed_says_why_and_the_largest_gain_comes_first():
    variants = [
        Variant(name="bfloat16 autocast", reason="RuntimeError: no"),
        Variant(name="threads 4", speedup=1.1, ci_low=1.05, ci_high=1.2),
        Variant(name="kernels", speedup=1.5, ci_low=1.4, ci_high=1.6, detail={"use_kernels": {"*": "torch.aten"}}),
    ]
    found = advise(profile(variants=variants))
    assert [advice.topic for advice in found] == ["kernels", "threads", "bfloat16"]
    assert "'*': 'torch.aten'" in found[0].code
    assert found[2].text == "bfloat16 by autocast was not measured: RuntimeError: no"


def test_a_change_without_an_interval_is_not_judged():
    (advice,) = advise(profile(variants=[Variant(name="channels_last", speedup=1.2)]))
    assert advice.text == "The channels_last layout: 1.20x so far, too few samples to tell"


def test_threads_are_not_judged_on_a_disturbed_machine():
    variant = Variant(name="threads 1", speedup=2.0, ci_low=1.9, ci_high=2.1)
    (advice,) = advise(profile(variants=[variant], warnings=["others"]))
    assert (advice.gain, advice.code) == (None, "")
    assert "Running on one thread gives 2.00x (1.90 - 2.10)" in advice.text
    assert advise(profile(variants=[variant]))[0].gain == 2.0


def test_more_threads_than_processors_are_warned_of_where_torch_takes_them_by_itself():
    slower = {"name": "threads 8", "speedup": 0.5, "ci_low": 0.45, "ci_high": 0.55}
    (advice,) = advise(profile(variants=[Variant(**slower, detail={"usual": True})]))
    assert (
        "Running on 8 threads, as torch does here unless told otherwise, makes the step slower than on 2" in advice.text
    )
    assert advice.code == "torch.set_num_threads(2)"
    (advice,) = advise(profile(variants=[Variant(**slower, detail={"usual": False})]))
    assert advice.text.endswith("Leave it")


def test_what_has_no_measured_gain_says_on_paper_alone_or_by_roofline():
    found = texts(
        separable=[Separable(case="a", paper=8.8, roofline=7.0, share=0.1),
                   Separable(case="tiny", paper=8.8, share=0.001)],
        cliffs=[Cliff(case="a", c=65, h=7, w=7, k=65, more_c=80, more_h=7, more_w=7, more_k=80, speedup=1.4,
                       ci_low=1.3, ci_high=1.5)],
        facts=Facts(weight_denormals={"a": 7, "b": 900},
                    gridding=[Gridding(layers=[("x", 2), ("a", 4)], coverage=0.25)]),
        rows=[row(coverage=0.5)],
    )  # fmt: skip
    assert "8.8x less arithmetic on paper, 7x by this machine's roofline, not measured" in found["separable"]
    assert "tiny" not in found["separable"]
    assert "65 -> 65 channels take longer than 80 -> 80: 1.40x (1.30 - 1.50) alone" in found["shape"]
    assert "in the weights of 2 layers, most in b (900)" in found["denormals"]
    assert "x (d2), a (d4)" in found["gridding"]
    assert "read 25% of the positions in their window, with what is before them 50% of the input" in found["gridding"]


def test_layers_below_a_call_colder_than_alone_or_repacked_are_named():
    found = texts(
        rows=[
            row("small", bound="call", share=0.3),
            row("cold", median_s=0.003, ci_low_s=0.0029, step_s=0.003, isolated_s=0.001, isolated_high_s=0.0011),
            row("mixed", layout="nchw, weights channels_last"),
            row("packed", prepacked_speedup=2.5, best_speedup=1.2),
        ]
    )
    assert "take 30% of the step" in texts(rows=[row(bound="call", share=0.3)], step=step(call_s=7e-6))["calls"]
    assert "20% of the step in all; most of all cold forward, 3 ms against 1 ms" in found["cold"]
    assert "NCHW input and channels_last weights" in found["repacking"]
    assert "packed 2.5x" in found["packing"]


def lower(speedup, **changes):
    return row("half", lower_dtype="bfloat16", lower_implementation="torch.aten", lower_speedup=speedup,
               lower_speedup_ci_low=0.99 * speedup, lower_speedup_ci_high=1.01 * speedup, **changes)  # fmt: skip


@pytest.mark.parametrize(
    ("topic", "fires", "stays"),
    [
        ("precision", {"rows": [lower(2.0)]}, {"rows": [lower(1.4), lower(2.0, share=0.001)]}),
        ("precision", {"rows": [lower(0.2)]}, {"rows": [lower(0.8)]}),
        ("calls", {"rows": [row(bound="call")]}, {"rows": [row(bound="call", share=0.01), row(bound="compute")]}),
        ("cold", {"rows": [row(ci_low_s=9e-4, isolated_s=4e-4, isolated_high_s=5e-4)]},
                 {"rows": [row(ci_low_s=7e-4, isolated_s=4e-4, isolated_high_s=5e-4)]}),
        ("packing", {"rows": [row(prepacked_speedup=1.6)]},
                    {"rows": [row(prepacked_speedup=1.4), row(prepacked_speedup=1.6, best_speedup=1.7)]}),
        ("repacking", {"rows": [row(layout="nchw, weights channels_last")]}, {"rows": [row(layout="channels_last")]}),
        ("separable", {"separable": [Separable(case="a", paper=8.0, share=0.03)]},
                      {"separable": [Separable(case="a", paper=8.0, share=0.01)]}),
        ("denormals", {"facts": Facts(input_denormals={"a": 1})}, {"facts": Facts()}),
        ("oneDNN", {"variants": [Variant(name="oneDNN on", speedup=2.0, ci_low=1.9, ci_high=2.1)]}, {"variants": []}),
    ],
)  # fmt: skip
def test_each_advice_fires_above_its_threshold_and_not_below(topic, fires, stays):
    called = step(call_s=7e-6)
    assert topic in texts(step=called, **fires)
    assert topic not in texts(step=called, **stays)


def test_what_runs_beside_the_convolutions_is_named_above_its_threshold_alone():
    def repack(share):
        return OtherOperator(operator="repack nchw to channels_last", calls=1, step_s=0.001, share=share)

    assert "repacking" in texts(step=step(operators=[repack(0.03)]))
    assert "repacking" not in texts(step=step(operators=[repack(0.01)]))
    assert "others" in texts(step=step(operators=[repack(0.01)], convolutions_share=0.4))
    assert "others" not in texts(step=step(operators=[repack(0.01)], convolutions_share=0.6))


def test_an_interrupted_profile_gives_the_advice_that_it_has_evidence_for():
    assert set(texts(missing=["changes to the whole step"], rows=[lower(2.0)])) == {"precision"}


def test_a_wrong_result_alone_is_said_and_only_a_few_are():
    wrong = [msgspec.structs.replace(alone("torch.aten", None, None, None), status="mismatch", case=f"layer{n}",
                                     status_detail="nan, expected 10; to reproduce: x") for n in range(5)]  # fmt: skip
    found = [advice.text for advice in advise(profile(isolated=[*wrong, *TIMES]))]
    assert found[0] == f"torch.aten failed alone on layer0, forward, float32 ({SPEC}): mismatch: nan, expected 10"
    assert (len(found), found[-1]) == (4, "2 more failures are in profile.json")
    assert advise(profile(isolated=TIMES)) == []


def test_a_single_kernel_that_gains_is_named_with_its_layer():
    layer = "conv2d 1x8x10x10 k16 3x3 s1 p1 d1 g1 forward"
    detail = {"use_kernels": {layer: "numba.direct", "*": "torch.aten"}}
    variant = Variant(name=f"kernel {layer}", speedup=1.1, ci_low=1.05, ci_high=1.2, detail=detail)
    (advice,) = advise(profile(variants=[variant]))
    assert advice.text.startswith(f"Swapping in numba.direct for {layer} alone makes the step faster: 1.10x")
    assert f"{layer!r}: 'numba.direct'" in advice.code


def step(**changes):
    return msgspec.structs.replace(profile().step, **changes)


def test_the_rest_of_the_step_and_compiled_models_are_mentioned():
    repack = OtherOperator(operator="repack nchw to channels_last", calls=2, step_s=0.001, share=0.1)
    found = texts(step=step(convolutions_share=0.3, operators=[repack], compiled=True, eager_s=0.02))
    assert "Convolutions are 30% of the step" in found["others"]
    assert "2 repack nchw to channels_last a step take 1 ms, 10.0% of it" in found["repacking"]
    assert "10 ms a step, 20 ms without" in found["compiled"]


# Rows ---------------------------------------------------------------------------------------------


def alone(implementation, median_s, low, high, layout="nchw"):
    return RecordedRow(
        run_id="r", machine="m", device="cpu", suite="model", case="a", operator="conv2d", kind="standard",
        pass_="forward", dtype="float32", layout=layout, n=1, c=8, h=10, w=10, k=16, r=3, s=3, stride_h=1, stride_w=1,
        padding_h=1, padding_w=1, dilation_h=1, dilation_w=1, groups=1, output_padding_h=0, output_padding_w=0,
        implementation=implementation, status="ok", median_s=median_s, ci_low_s=low, ci_high_s=high,
    )  # fmt: skip


TIMES = [
    alone("torch.aten", 4e-5, 3.9e-5, 4.1e-5),
    alone("torch.channels_last", 3e-5, 2.9e-5, 3.1e-5, "channels_last"),
    alone("numba.direct", 2e-5, 1.9e-5, 2.1e-5),
    alone("torch.prepacked", 1e-5, 0.9e-5, 1.1e-5),
]


def rows(layout="nchw", call_s=1e-7, times=TIMES):
    layer = Layer("a", SPEC, "float32", layout, "forward")
    steps = [[Event(layer, 0.0, 1e-4), Event("relu", 1e-4, 2e-4), Event(layer, 2e-4, 5e-4)]] * 6
    return layers.rows(steps, 0.001, "cpu", PEAKS, call_s, times), layers.operators(steps, 0.001)


def test_a_row_joins_the_time_in_the_model_with_those_alone():
    (found,), (relu,) = rows()
    # valid taps: 28 of 30 on each axis, so 28 * 28 * 8 * 16 multiply-accumulates
    assert (found.calls, found.macs, found.valid_macs) == (2, 115200, 100352)
    assert found.bytes == 4 * (8 * 100 + 8 * 16 * 9 + 16 * 100)
    assert found.step_s == pytest.approx(4e-4)
    assert found.median_s == pytest.approx(2e-4)
    assert found.share == pytest.approx(0.4)
    assert found.gflops == pytest.approx(2 * 115200 / 2e-4 / 1e9)
    # 14.1 FLOP/byte is above the ridge of 10: 1e11 FLOP/s allow 2.007 us
    assert (found.bound, rows(times=TIMES[:-1])[0][0].bound) == ("packing", "compute")  # packed ahead 4x as fast
    assert found.roofline_fraction == pytest.approx(2 * 100352 / 1e11 / 2e-4)
    assert (found.isolated_s, found.best_implementation, found.best_s) == (4e-5, "numba.direct", 2e-5)
    assert found.best_speedup == pytest.approx(2.0)
    assert found.best_speedup_ci_low == pytest.approx(3.9 / 2.1)
    assert found.prepacked_speedup == pytest.approx(4.0)
    assert (relu.operator, relu.calls, relu.share) == ("relu", 1, pytest.approx(0.1))


def test_a_channels_last_layer_is_held_against_torch_in_that_layout():
    (found,), _ = rows("channels_last")
    assert found.isolated_s == 3e-5
    assert found.best_speedup == pytest.approx(1.5)


def test_a_layer_that_could_be_done_faster_than_a_call_is_bound_by_the_call():
    assert rows(call_s=1e-5)[0][0].bound == "call"


def test_layers_that_take_most_of_the_time_come_first_and_the_rest_apart():
    def event(name, seconds):
        return Event(Layer(name, SPEC, "float32", "nchw", "forward"), 0.0, seconds)

    main, rest = layers.longest_first([event("a", 0.1), event("b", 0.9), event("c", 0.02), Event("relu", 0.0, 9.0)])
    assert ([layer.name for layer in main], [layer.name for layer in rest]) == (["b", "a"], ["c"])
    main, rest = layers.longest_first([event("a", 0.1), event("a", 0.1)])
    assert ([layer.name for layer in main], rest) == (["a"], [])


def test_totals_multiply_by_calls():
    found, _ = rows()
    assert layers.totals(found)["macs"] == layers.totals(found)["forward_macs"] == 230400


def test_kernels_to_swap_are_those_that_clearly_win():
    (found,), _ = rows()
    key = "conv2d 1x8x10x10 k16 3x3 s1 p1 d1 g1 forward"
    assert best_kernels([found]) == {key: "numba.direct", "*": "torch.aten"}
    (found,), _ = rows("channels_last")  # 3 over 2, but in another layout
    assert best_kernels([found]) == {}


# Files --------------------------------------------------------------------------------------------


def test_a_trace_has_microseconds_since_its_begin_and_a_line_for_each_pass():
    layer = Layer("a", SPEC, "float32", "nchw", "data_gradient")
    events = trace([Event("relu", 5.0, 5.001), Event(layer, 5.002, 5.004)], "net")["traceEvents"]
    timed = [e for e in events if e["ph"] == "X"]
    assert [(e["name"], e["tid"], round(e["ts"]), round(e["dur"])) for e in timed] == [
        ("relu", 0, 0, 1000), ("a", 2, 2000, 2000),
    ]  # fmt: skip
    assert timed[1]["args"]["shape"] == str(SPEC)


def test_the_csv_has_the_documents_columns_and_no_formula():
    lines = to_csv([row("=1+1")]).splitlines()
    assert lines[0].split(",") == list(COLUMNS) == list(msgspec.to_builtins(row()))
    assert lines[1].startswith("'=1+1,")


def test_markdown_shows_a_hostile_name_as_text():
    assert "<script>" not in markdown(profile(rows=[row(HOSTILE)]))


class Tags(HTMLParser):
    def __init__(self, markup):
        super().__init__()
        self.found = []
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)


def test_the_page_escapes_hostile_names_and_has_every_file_beside_it():
    variants = [Variant(name="kernels", speedup=1.5, ci_low=1.4, ci_high=1.6, detail={"use_kernels": {HOSTILE: "x"}})]
    plain, hostile = profile(peaks=PEAKS), profile(peaks=PEAKS, rows=[row(HOSTILE)], variants=variants)
    hostile.step.model = HOSTILE
    hostile.advice = advise(hostile)
    tags = Tags(page(hostile)).found
    assert tags.count("script") == Tags(page(plain)).found.count("script")
    assert "img" not in tags
    files = contents(Outcome(plain, [], Profiled({}, b"{}")), lambda line: None)
    assert set(files) == FILES
    assert json.loads(files["profile.json"])["rows"][0]["pass"] == "forward"


@needs_chromium
def test_the_page_draws_its_roofline_under_its_own_policy_and_hostile_names_do_nothing(tmp_path):
    found = profile(peaks=PEAKS, rows=[row(HOSTILE), row("b", kind="pointwise", share=0.3)], machine=HOSTILE)
    found.step.model, found.warnings = HOSTILE, [HOSTILE]
    found.advice = advise(found)
    seen = visit(tmp_path, page(found), '(async () => seen.dots = all("[aria-roledescription=circle]").length)();')
    assert_quiet(seen)
    assert (seen["dots"], seen["images"]) == (2, 0)
