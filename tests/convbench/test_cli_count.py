"""`convbench count`: the published totals, one JSON document, light imports."""

import json

import pytest

from convbench.cli.main import run
from convbench.results import COLUMN_NAMES
from tests.convbench.test_count import NETWORKS

EXTRA = {"flops", "receptive_field", "coverage", "intensity", "count", "p", "q"}


def document(capsys, *arguments):
    assert run(["count", *arguments, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


@pytest.mark.parametrize(("name", "parameters", "network_macs", "conv_macs"), NETWORKS)
def test_totals_of_published_networks(name, parameters, network_macs, conv_macs, capsys):
    totals = document(capsys, "--suite", name)["totals"]
    assert totals["network_params"] == parameters
    assert network_macs in (None, totals["network_macs"])
    assert conv_macs in (None, totals["macs"])
    assert totals["flops"] == 2 * totals["macs"]


def test_rows_have_the_csv_names(capsys):
    found = document(capsys, "resnet50")
    assert (found["schema_version"], found["command"]) == (1, "count")
    for row in found["rows"]:
        assert set(row) - set(COLUMN_NAMES) == EXTRA
        assert row["flops"] == 2 * row["macs"]
        assert row["valid_macs"] <= row["macs"]
    assert found["rows"][-1]["receptive_field"] == 427
    assert {row["receptive_field"] for row in found["rows"] if "shortcut" in row["case"]} == {None}


def test_several_suites_are_summed_and_kept_apart(capsys):
    totals = document(capsys, "vgg16", "--suite", "resnet18")["totals"]
    assert set(totals["suites"]) == {"vgg16", "resnet18"}
    assert totals["network_params"] == 138_357_544 + 11_689_512


def test_passes_add_up_but_parameters_do_not(capsys):
    forward, everything = (document(capsys, "vgg16", *more)["totals"] for more in ([], ["--pass", "all"]))
    assert everything["macs"] == 3 * forward["macs"]
    assert everything["network_macs"] == 3 * forward["network_macs"]
    assert everything["params"] == forward["params"]
    assert everything["network_params"] == forward["network_params"]


def test_a_part_of_a_network_has_no_network_totals(capsys):
    totals = document(capsys, "vgg16", "--case", "conv1_*")["totals"]
    assert totals["macs"] == 86_704_128 + 1_849_688_064
    assert "network_macs" not in totals


def test_dtype_changes_bytes_only(capsys):
    single, double = (document(capsys, "quick", "--dtype", d)["rows"] for d in ("float32", "float64"))
    for a, b in zip(single, double, strict=True):
        assert b["bytes"] == 2 * a["bytes"]
        assert b["macs"] == a["macs"]


def test_a_field_with_two_sides(capsys, tmp_path):
    path = tmp_path / "rect.toml"
    path.write_text(
        '[suite]\nname = "rect"\nnetwork = true\n'
        '[[case]]\nname = "a"\ninput = [1, 1, 9, 9]\nout_channels = 1\nkernel = [3, 5]\n'
    )
    found = document(capsys, str(path))
    assert found["rows"][0]["receptive_field"] == [3, 5]
    assert found["totals"]["receptive_field"] == [3, 5]
    assert run(["count", str(path)]) == 0
    assert "receptive field 3x5" in capsys.readouterr().out


def test_text_shows_totals_and_layers(capsys):
    assert run(["count", "mobilenet_v1"]) == 0
    out = capsys.readouterr().out
    for expected in ("567,716,352 MACs", "568,740,352 MACs", "4,231,976 parameters", "receptive field 315", "dw13"):
        assert expected in out


def test_crosscheck_is_in_the_document_and_in_the_text(capsys):
    found = document(capsys, "quick", "--crosscheck", "--pass", "all")
    assert len(found["crosscheck"]) == 2 * len(found["rows"])
    assert run(["count", "quick", "--crosscheck", "--pass", "weight_gradient"]) == 0
    assert "known error" in capsys.readouterr().out


def test_a_name_from_a_file_cannot_drive_the_terminal(capsys, tmp_path):
    path = tmp_path / "odd.toml"
    path.write_text(
        '[suite]\nname = "\\u001b[31modd"\n[[case]]\nname = "\\u001b[31mred"\n'
        "input = [1, 1, 9, 9]\nout_channels = 1\nkernel = 3\n"
    )
    assert run(["count", str(path)]) == 0
    assert "\x1b[31m" not in capsys.readouterr().out
