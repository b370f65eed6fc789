"""Block sizes by trial, with invented times: what is tried, remembered, found again, and not believed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from convbench_kernels.answers import LARGEST_BYTES, Answers
from convbench_kernels.torch_cuda import tuning

SMALL, LARGE = ({"BM": size, "BN": size, "BK": 32, "num_warps": 4, "num_stages": 3} for size in (64, 128))
TILES = [LARGE, SMALL]


class Times:
    """seconds(tile) that counts."""

    def __init__(self, large: float, small: float) -> None:
        self.seconds, self.tried = {128: large, 64: small}, 0

    def __call__(self, tile) -> float:
        self.tried += 1
        return self.seconds[tile["BM"]]


def chosen(key, tiles, seconds, path, before=len):
    return Answers(path, "block sizes", tuning._is_tile).by_trial(key, tiles, seconds, before)


def test_the_fastest_is_chosen_and_not_tried_again(tmp_path):
    path, times = tmp_path / "new" / "gpu.json", Times(2.0, 1.0)
    assert chosen("a", TILES, times, path) == SMALL
    assert chosen("a", TILES, times, path) == SMALL
    assert times.tried == 2
    order: list[object] = []
    chosen("c", TILES, lambda tile: float(order.append(tile["BM"]) is None), path, order.append)
    chosen("c", TILES, times, path, order.append)
    assert order == [TILES, 128, 64], "compiled together before the first is tried, and only then"
    assert chosen("b", TILES, Times(1.0, 2.0), path) == LARGE, "another key is another question"
    assert json.loads(path.read_text()) == {"a": SMALL, "b": LARGE, "c": LARGE}
    assert [p.name for p in path.parent.iterdir()] == ["gpu.json"]


def test_another_process_finds_it(tmp_path):
    script = (
        "from convbench_kernels.torch_cuda import tuning\n"
        "from tests.kernels.test_tuning import TILES\n"
        "path = tuning.answers('NVIDIA H100/80')\n"
        "print(path.by_trial('a', TILES, lambda tile: 1 / 0)['BM'], path.path.name)"
    )
    os.environ["CONVBENCH_CACHE_DIR"], before = str(tmp_path), os.environ.get("CONVBENCH_CACHE_DIR")
    try:
        path = tuning.answers("NVIDIA H100/80").path
        chosen("a", TILES, Times(2.0, 1.0), path)
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    finally:
        del os.environ["CONVBENCH_CACHE_DIR"]
        os.environ |= {"CONVBENCH_CACHE_DIR": before} if before else {}
    assert result.stdout.split() == ["64", path.name]
    assert path.parent == tmp_path / "triton"


def test_a_device_and_a_version_have_a_file_each(tmp_path):
    assert tuning.answers("NVIDIA H100") != tuning.answers("NVIDIA H200")
    (tmp_path / "kernel.py").write_text("a = 1")
    before = tuning.version.__wrapped__(tmp_path)
    (tmp_path / "kernel.py").write_text("a = 2")
    assert tuning.version.__wrapped__(tmp_path) != before
    assert tuning.version() in tuning.answers("NVIDIA H100").path.name


def answers_at_once(path, count):
    """In processes of their own."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom convbench_kernels.answers import Answers\n"
        "for n in range(200): Answers(Path(sys.argv[1]), 'block sizes', bool).keep(sys.argv[2] + str(n), n + 1)"
    )
    words = [sys.executable, "-W", "error", "-c", script, str(path)]
    return [subprocess.Popen([*words, str(number)], stderr=subprocess.PIPE, text=True) for number in range(count)]


def test_processes_that_answer_at_once_never_leave_half_a_file(tmp_path):
    path = tmp_path / "fastest.json"
    processes = answers_at_once(path, 3)
    while any(process.poll() is None for process in processes):
        assert not path.exists() or json.loads(path.read_text())
    assert [process.communicate()[1] for process in processes] == ["", "", ""], "nobody read half a file either"
    assert {"0199", "1199", "2199"} & set(json.loads(path.read_text()))  # of the last to write
    assert [p.name for p in tmp_path.iterdir()] == ["fastest.json"]


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[1, 2]", '{"a": 3}', '{"a": {"BM": "wide"}}', "\x80\x81", '{"a": NaN}', '{"a": ' + "9" * 5000 + "}",
     "[" * 10**5, '{"a":' * 10**5, '{"a": "' + "W" * LARGEST_BYTES + '"}'],
    ids=lambda damage: damage[:9],
)  # fmt: skip
def test_a_damaged_file_is_said_and_replaced(tmp_path, damage):
    path = tmp_path / "gpu.json"
    path.write_bytes(damage.encode("latin-1"))
    with pytest.warns(UserWarning, match=r"gpu\.json: not a file of block sizes"):
        assert chosen("a", TILES, Times(1.0, 2.0), path) == LARGE
    assert json.loads(path.read_text()) == {"a": LARGE}


@given(st.binary(max_size=60))
def test_any_bytes_are_a_file_of_answers_or_none(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("answers") / "gpu.json"
    path.write_bytes(b'{"a": {"BM": 64' + data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert chosen("a", TILES, Times(1.0, 2.0), path) in TILES
    assert json.loads(path.read_text())["a"] in TILES


def test_sizes_that_are_no_longer_offered_are_tried_again(tmp_path):
    path = tmp_path / "gpu.json"
    Answers(path, "block sizes", tuning._is_tile).keep("a", LARGE | {"num_stages": 7})
    assert chosen("a", TILES, Times(2.0, 1.0), path) == SMALL


def test_sizes_that_cannot_run_are_passed_over_and_none_is_an_error(tmp_path):
    assert chosen("a", TILES, Times(inf, 1.0), tmp_path / "gpu.json") == SMALL
    with pytest.raises(RuntimeError, match="none of 2 block sizes can run: b"):
        chosen("b", TILES, Times(inf, inf), tmp_path / "gpu.json")


def test_a_disk_that_is_full_leaves_what_was_there_and_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "gpu.json"
    chosen("a", TILES, Times(2.0, 1.0), path)

    def full(self, text):
        with self.open("w") as file:
            file.write(text[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.warns(UserWarning, match="No space left on device; block sizes are tried again"):
        assert chosen("b", TILES, Times(2.0, 1.0), path) == SMALL
    assert json.loads(path.read_bytes()) == {"a": SMALL}
    assert [p.name for p in tmp_path.iterdir()] == ["gpu.json"]


def test_where_nothing_can_be_written_the_answer_still_counts(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="tried again in the next process"):
        assert chosen("a", TILES, Times(2.0, 1.0), tmp_path / "file" / "gpu.json") == SMALL


def test_shapes_of_one_class_share_an_answer():
    assert tuning.shape_class((100352, 60, "nchw", "tf32")) == tuning.shape_class((131072, 64, "nchw", "tf32"))
    assert tuning.shape_class((64, "nchw")) != tuning.shape_class((65, "nchw"))


@pytest.mark.parametrize("table", [*tuning.GEMM.values(), *tuning.FUSED.values()])
def test_tables(table):
    """Every product has sizes, none mostly empty; the interpreter of the other tests is not on here."""
    assert not tuning.INTERPRETED
    for rows, columns in ((1, 1), (3, 1000), (10**6, 16), (10**6, 10**3)):
        found = tuning.tiles(rows, columns, table)
        assert found
        assert all(tile["BM"] < max(2 * rows, 64) and tile["BN"] < max(2 * columns, 64) for tile in found)
        assert all(min(tile["BM"], tile["BN"], tile["BK"]) >= 16 for tile in found), "tl.dot takes 16 and more"
