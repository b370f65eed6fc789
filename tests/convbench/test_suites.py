"""Suites: the built-in ones are sound, files are read strictly, every mistake is one line that names its place."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbench import count
from convbench.errors import InputError
from convbench.spec import KINDS, OPERATORS, PASSES, ConvSpec
from convbench.suites import Layer, Other, Suite, builtin, load, names, parse, resolve, to_toml
from convbench.suites.toml import LARGEST_SUITE_BYTES, MOST_LAYERS

SUITE = '[suite]\nname = "mine"\n'
CASE = '[[case]]\nname = "a"\ninput = [1, 4, 9, 9]\nout_channels = 8\nkernel = 3\n'
NETWORK = f"{SUITE}network = true\n"


def read(text: str) -> Suite:
    return parse(text.encode(), "mine.toml")


def complaint(text: str | bytes) -> str:
    with pytest.raises(InputError) as caught:
        parse(text if isinstance(text, bytes) else text.encode(), "mine.toml")
    message = str(caught.value)
    assert message.startswith("mine.toml: ")
    assert "\n" not in message
    return message


# Built-in suites ----------------------------------------------------------------------------------


def test_the_suites_of_the_design_are_built_in():
    design = "default mobilenet_v1 mobilenet_v2 resnet50 vgg16 deeplabv3 unet dcgan fcn separable quick"
    assert set(design.split()) <= set(names())
    assert names()[:2] == ("default", "quick")


@pytest.mark.parametrize("name", names())
def test_built_in_suite_is_sound_and_round_trips(name):
    suite = builtin(name)
    assert suite.name == name
    assert "batch 1" in suite.description
    assert {layer.spec.n for layer in suite.layers} == {1}
    assert len({layer.name for layer in suite.layers}) == len(suite.layers)
    assert parse(to_toml(suite).encode(), name) == suite


@pytest.mark.parametrize("name", ["default", "quick"])
def test_mixed_suites_cover_every_operator_and_kind(name):
    layers = builtin(name).layers
    assert {layer.spec.operator for layer in layers} == set(OPERATORS)
    assert {layer.spec.kind for layer in layers} == set(KINDS)


def test_default_is_short_enough_for_a_first_run():
    layers = builtin("default").layers
    assert 20 <= len(layers) <= 30
    large = [layer.name for layer in layers if count.macs(layer.spec) > 500_000_000]
    assert large == ["deeplabv3.aspp.rate12"]
    zero_inserted = [layer for layer in layers if layer.spec.is_transposed and max(layer.spec.stride) > 2]
    assert not zero_inserted  # the textbook form would multiply stride^2 as much


@pytest.mark.parametrize("name", ["default", "quick", "separable"])
def test_separable_pairs_come_with_their_relatives(name):
    specs = {layer.spec for layer in builtin(name).layers}
    pairs = [spec for spec in specs if spec.is_separable]
    assert pairs
    for pair in pairs:
        assert {pair.dense(), pair.depthwise(), pair.pointwise()} <= specs
    assert ConvSpec.create([1, 512, 14, 14], 512, 3, "separable_conv2d", padding=1) in pairs


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "resnet50", "vgg16", "dcgan"])
def test_layers_of_the_mixed_suites_are_layers_of_their_networks(name):
    network = {layer.spec for layer in builtin(name).layers}
    if name == "mobilenet_v1":
        network |= {layer.spec for layer in builtin("separable").layers}
    picked = [layer for layer in builtin("default").layers if layer.name.startswith(f"{name}.")]
    assert picked
    assert {layer.spec for layer in picked} <= network


def test_layers_of_a_network_follow_each_other():
    """On the main path of a sequential network each layer's input is the last one's output."""
    for name in ("vgg16", "mobilenet_v1", "mobilenet_v1_full", "mobilenet_v2", "context"):
        shape = None
        for layer in builtin(name).layers:
            spec = layer.spec
            if name != "mobilenet_v2" and shape:  # mobilenet_v2 lists repeated layers once, out of sequence
                assert (spec.c, spec.h, spec.w) == shape, layer.name
            height, width = (size // layer.pool[1] if layer.pool else size for size in (spec.p, spec.q))
            shape = (spec.k, height, width)


def test_up_convolutions_have_published_output_sizes():
    fcn = {layer.name: layer.spec for layer in builtin("fcn").layers}
    outputs = {name: spec.p for name, spec in fcn.items() if spec.is_transposed}
    assert outputs == {
        "fcn32s.upscore_64x64_s32": 544, "fcn16s.upscore2_4x4_s2": 34, "fcn16s.upscore_32x32_s16": 560,
        "fcn8s.upscore_pool4_4x4_s2": 70, "fcn8s.upscore_16x16_s8": 568,
    }  # fmt: skip
    unet = [layer.spec.p for layer in builtin("unet").layers if layer.spec.is_transposed]
    assert unet == [56, 104, 200, 392]
    dcgan = [layer.spec.p for layer in builtin("dcgan").layers if layer.spec.is_transposed]
    assert dcgan == [4, 8, 16, 32, 64]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("dcgan", 3_576_704 + 2_765_568), ("unet_brain", 7_763_041), ("unet", 31_030_658), ("deeplabv3", 39_048_533)],
)
def test_parameters_of_the_other_networks(name, parameters):
    """dcgan: PyTorch example; unet_brain: PyTorch Hub; unet, deeplabv3: summed by hand from the papers' tables."""
    assert builtin(name).network_params() == parameters


# Reading ------------------------------------------------------------------------------------------


def test_every_key():
    suite = read(
        '[suite]\nname = "mine"\ndescription = """two\nlines"""\nnetwork = true\n'
        '[[case]]\nname = "a"\noperator = "conv2d"\ninput = [2, 4, 9, 8]\nout_channels = 6\nkernel = [3, 2]\n'
        "stride = [2, 1]\npadding = [1, 0]\ndilation = [1, 2]\ngroups = 2\nbias = true\npool = [2, 2]\n"
        '[[case]]\nname = "b"\noperator = "conv_transpose2d"\ninput = [1, 4, 5, 5]\nout_channels = 3\nkernel = 3\n'
        "stride = 2\noutput_padding = 1\ncount = 4\nmain_path = false\n"
        '[[other]]\nname = "fc"\nmacs = 10\nparams = 11\ncount = 2\n'
    )
    assert suite == Suite(
        "mine",
        "two lines",
        (
            Layer("a", ConvSpec("conv2d", 2, 4, 9, 8, 6, 3, 2, (2, 1), (1, 0), (1, 2), 2, bias=True), 1, (2, 2)),
            Layer("b", ConvSpec("conv_transpose2d", 1, 4, 5, 5, 3, 3, 3, (2, 2), output_padding=(1, 1)), 4, (), False),
        ),
        (Other("fc", 10, 11, 2),),
        True,
    )


def test_totals_weigh_by_count():
    suite = read(SUITE + CASE + 'count = 3\n[[other]]\nname = "fc"\nmacs = 10\nparams = 11\ncount = 2\n')
    spec = suite.layers[0].spec
    for pass_ in PASSES:
        assert suite.network_macs(pass_) == 3 * count.macs(spec, pass_) + 20
    assert suite.network_params() == 3 * count.params(spec) + 22


def test_byte_order_mark_and_carriage_returns_are_accepted():
    text = (SUITE + CASE).replace("\n", "\r\n").encode()
    assert parse(b"\xef\xbb\xbf" + text, "x") == read(SUITE + CASE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[suite]\nname = mine\n", ["line 2, column 8", "not valid TOML"]),
        (SUITE + "[[case]\n", ["line 3", "not valid TOML"]),
        (SUITE + CASE + "kernel = 5\n", ["overwrite", "line 8"]),
        (SUITE + "x = " + "9" * 10_000, ["not valid TOML"]),
        (SUITE + "x = " + "[" * 100_000, ["nested too deeply"]),
        (SUITE.encode() + b'description = "\xff"', ["line 3", "UTF-8"]),
        ("", ["`suite`", "one [suite] table with a name"]),
        (CASE, ["suite"]),
        (SUITE, ["case"]),
        ("case = []\n" + SUITE, ["no [[case]]"]),
        (SUITE + "[case]\n" + CASE.split("\n", 1)[1], ["case", "Expected `list`"]),
        (SUITE + CASE + CASE, ["'a' appears twice"]),
        (SUITE + CASE + '[[other]]\nname = "x"\n[[other]]\nname = "x"\n', ["[[other]] 'x' appears twice"]),
        (SUITE + CASE.replace("kernel = 3\n", ""), ["'a'", "`kernel`"]),
        (SUITE + CASE.replace('name = "a"\n', ""), ["[[case]] 1", "`name`"]),
        (SUITE + CASE.replace('"a"', '""'), ["''", "length"]),
        (SUITE + CASE.replace('"a"', "3"), ["name = 3", "str"]),
        (SUITE + CASE + "strid = 2\n", ["'a'", "strid", "did you mean `stride`"]),
        (SUITE + CASE + "colour = 2\n", ["'a'", "colour", "known: name, input"]),
        (SUITE + "descripton = 'x'\n" + CASE, ["[suite]", "did you mean `description`"]),
        (SUITE + CASE.replace("[[case]]", "[[cases]]"), ["cases", "case"]),
        (SUITE + CASE + "stride = '2'\n", ["'a'", "stride = '2'"]),
        (SUITE + CASE + "stride = 1.5\n", ["'a'", "stride = 1.5"]),
        (SUITE + CASE + "stride = true\n", ["'a'", "stride = True"]),
        (SUITE + CASE + "stride = [1, 2, 3]\n", ["'a'", "stride"]),
        (SUITE + CASE + "stride = [1, 'x']\n", ["'a'", "stride = [1, 'x']"]),
        (SUITE + CASE + "stride = 0\n", ["'a'", "stride", "at least 1"]),
        (SUITE + CASE + "padding = -1\n", ["'a'", "padding", "at least 0"]),
        (SUITE + CASE + "count = 0\n", ["'a'", "count = 0", ">= 1"]),
        (SUITE + CASE + "bias = 1\n", ["'a'", "bias = 1"]),
        (SUITE + CASE + "groups = 3\n", ["'a'", "groups = 3", "divide"]),
        (SUITE + CASE + "pool = [2]\n", ["'a'", "pool = [2]", "[kernel, stride]"]),
        (SUITE + CASE + "operator = 'conv3d'\n", ["'a'", "conv3d", "expected one of conv2d"]),
        (SUITE + CASE + "output_padding = 1\n", ["'a'", "output_padding"]),
        (SUITE + CASE.replace("[1, 4, 9, 9]", "[4, 9, 9]"), ["'a'", "input = [4, 9, 9]", "[N, C, H, W]"]),
        (SUITE + CASE.replace("[1, 4, 9, 9]", "[1, 4, 2, 2]"), ["'a'", "output would be empty"]),
        (SUITE + CASE.replace("[1, 4, 9, 9]", "[1, 4, 10000000, 10000000]"), ["'a'", "no machine holds it"]),
        (SUITE + CASE + f"count = {10**18}\n", ["check the sizes"]),
        (SUITE + CASE + "count = " + "9" * 40 + "\n", ["check the sizes"]),
        (SUITE + CASE + '[[other]]\nname = "fc"\nmacs = -1\n', ["[[other]] 'fc'", "macs = -1"]),
        ("[suite]\nname = 'x'\nnetwork = true\n" + CASE + "stride = 2\ncount = 2\n", ["'a'", "main_path = false"]),
        ("case = [1, 2]\n" + SUITE, ["[[case]] 1", "Expected a table"]),
        (SUITE + CASE + "stride = " + "9" * 20, ["'a'", "stride[0] = 99", "check the sizes"]),
        (SUITE + CASE + "padding = " + "9" * 20 + "\nstride = 1000\n", ["'a'", "padding[0]", "check the sizes"]),
        (SUITE + CASE + "pool = [2, " + "9" * 20 + "]\n", ["'a'", "pool = [2, 99"]),
        (SUITE + CASE + '[[other]]\nname = "fc"\ncount = ' + "9" * 20, ["[[other]] 'fc'", "count = 99"]),
        (NETWORK + CASE + "pool = [9999999999, 9]\n", ["receptive field", "check kernels"]),
    ],
)
def test_a_mistake_is_named(text, expected):
    message = complaint(text)
    for words in expected:
        assert words in message


def test_a_network_of_many_repeated_layers_is_followed_at_once_and_more_than_a_table_shows_is_refused():
    layers = [CASE.replace('"a"', f'"{n}"') + "padding = 1\ncount = 999\n" for n in range(MOST_LAYERS + 1)]
    fields = read(NETWORK + "".join(layers[:-1])).receptive_fields()
    assert fields["0"].coverage == 1
    assert fields["9999"] == ((1 + 2 * 999 * 10**4,) * 2, None)
    assert "10,001 layers, more than 10,000" in complaint(NETWORK + "".join(layers))


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "huge.toml"
    path.touch()
    os.truncate(path, 300 * 2**20)
    with pytest.raises(InputError, match=r"huge.toml: larger than 4 MiB"):
        load(path)
    assert len(complaint(b" " * (LARGEST_SUITE_BYTES + 1))) < 200


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vgg17", "did you mean 'vgg16'"),
        ("nothing_like_it", "built in: default"),
        ("no/such/file.toml", "no/such/file.toml: No such file"),
        ("missing.toml", "missing.toml: No such file"),
        ("a\0b.toml", "null byte"),
    ],
)
def test_unknown_suites_and_files(text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        resolve(text)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_not_a_suite(tmp_path):
    with pytest.raises(InputError, match="directory"):
        resolve(f"{tmp_path}/")


def test_resolve_takes_names_and_paths(tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text(SUITE + CASE)
    (tmp_path / "mine").write_text(SUITE + CASE)
    (tmp_path / "vgg16").write_text("not a suite")
    monkeypatch.chdir(tmp_path)
    assert resolve("mine.toml") == resolve("mine") == resolve(str(tmp_path / "mine.toml"))
    assert resolve("vgg16") == builtin("vgg16")


# Writing ------------------------------------------------------------------------------------------

texts = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=20)


@given(
    st.lists(texts, min_size=1, max_size=3, unique=True),
    st.integers(1, 9),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.booleans(),
)
def test_any_suite_round_trips(layer_names, layer_count, size, bias):
    spec = ConvSpec("conv2d", 1, 2, 9, 9, 4, *size, stride=size, padding=(1, 0), groups=2, bias=bias)
    layers = tuple(Layer(name, spec, layer_count, (2, 2) if bias else (), bias) for name in layer_names)
    suite = Suite("any", "one line", layers, (Other("fc", 1, 0, 2),))
    assert read(to_toml(suite)) == suite
