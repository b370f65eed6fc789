"""The scaling study's sweeps: one size at a time, what it says of growth, its picture. Timed by hand."""

import pytest

from benchmarks import scaling
from convbench import count


def invented():
    """Times that grow as the FLOPs, twice as fast on two threads."""
    return {
        threads: {
            (str(p.spec), name): count.flops(p.spec) / 1e9 / threads
            for p in scaling.points()
            for name in (scaling.OURS, scaling.REFERENCE)
        }
        for threads in (1, 2)
    }


def test_along_an_axis_one_size_changes_and_the_map_keeps_its_size():
    for operator in scaling.OPERATORS:
        for axis in scaling.AXES:
            specs = [p.spec for p in scaling.points() if (p.operator, p.axis) == (operator, axis)]
            sizes = [(s.n, s.c, s.k, s.h, s.r) for s in specs]
            if sizes:
                changing = {n for n in range(5) if len({size[n] for size in sizes}) > 1}
                assert changing == ({1, 2} if (operator, axis) == ("depthwise", "C") else {"NCKHk".index(axis)})
                assert all(s.p == s.h * s.stride[0] if s.is_transposed else s.p == s.h for s in specs)


def test_growth_and_gain_of_threads_are_printed(capsys):
    scaling.show(invented(), "forward")
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if line.split()[:2] == ["standard", "C"])
    assert line.split()[-3:] == ["32.0x"] * 3
    assert "depthwise: 2 threads against 1: numba.auto 2.00x, torch.aten 2.00x" in shown


@pytest.mark.parametrize("missing", [0, 5])
def test_the_picture_is_drawn_of_what_there_is(tmp_path, missing):
    times = invented()
    for key in list(times[1])[:missing]:
        del times[1][key]
    scaling.chart(times, "forward", 1e11, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
