"""Tables on narrow and wide terminals."""

import tracemalloc

import pytest
from rich.console import Console

from convbench.cli import common


@pytest.fixture
def width(monkeypatch):
    def set_width(columns):
        console = Console(width=columns, force_terminal=False, color_system=None)
        monkeypatch.setattr(common, "out", lambda: console)

    return set_width


ROWS = [["a layer with a long name", "shape 512x14x14", "1.5 ms"]]
COLUMNS = (("layer", "left"), ("shape", "left"), "time")


def test_a_wide_terminal_shows_every_column(width, capsys):
    width(100)
    common.table("t", COLUMNS, ROWS, spare=("shape",))
    assert "512x14x14" in capsys.readouterr().out


def test_a_narrow_one_leaves_out_what_can_be_spared_and_wraps_nothing(width, capsys):
    width(40)
    common.table("t", COLUMNS, ROWS, spare=("shape",))
    printed = capsys.readouterr().out
    assert "512x14x14" not in printed
    assert "left out on a narrow terminal: shape" in printed
    assert "a layer with a long name" in printed
    assert "1.5 ms" in printed


def test_control_characters_do_not_reach_the_terminal(width, capsys):
    width(100)
    common.table("t", ("x",), [["\x1b[31mred\x07 \u202eback"]])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert "?[31mred? ?back" in printed


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (1.5, "1.5 s"), (0.0123, "12.3 ms"), (0.9996, "1000 ms"), (4.2e-5, "42 us"), (3e-9, "3 ns")],
)
def test_seconds_have_three_digits_and_a_unit(value, text):
    assert common.seconds(value) == text


def test_a_cell_is_cut_so_that_no_text_costs_much_to_fold(width, capsys):
    width(100)
    tracemalloc.start()
    common.table("t", (("x", "left"), ("y", "left")), [["a", "\N{FAMILY}\u200d" * 500_000]] * 20)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(capsys.readouterr().out) < 20 * 1000
    assert most < 2**25
