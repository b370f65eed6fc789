"""What the commands leave alone: no network, no file outside the output folder and the documented cache.

One process runs them all with an empty home and, where the system lets it, in a network namespace without a network.
An audit hook notes each connection and each file opened for writing; what native code writes is seen in the folders.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from convbench.cli.main import COMMANDS
from convbench.journal import cache_folder
from tests.conftest import environment

CACHE = cache_folder(".").absolute()

SCRIPT = r"""
import os, sys
from pathlib import Path

work, log, seen = Path(sys.argv[1]), open(sys.argv[2], "w"), []
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind")

def hook(event, arguments):
    if event in NETWORK:
        seen.append(f"{event} {arguments[1:]}")
    elif event == "open" and not isinstance(arguments[0], int) and writes(*arguments[1:]):
        seen.append(f"write {os.path.abspath(os.fsdecode(arguments[0]))}")

def writes(mode, flags):
    return bool(set(mode or "") & set("wax+")) or bool(flags & (os.O_WRONLY | os.O_RDWR))

from convbench.cli.main import run

(work / "tiny.toml").write_text(
    '[suite]\nname = "tiny"\n[[case]]\nname = "a"\ninput = [1, 4, 8, 8]\nout_channels = 4\nkernel = 3\n')
(work / "net.py").write_text("from torch import nn\ndef make(): return nn.Sequential(nn.Conv2d(1, 2, 3))\n")
FEW = ["--device", "cpu", "--impl", "torch.aten", "--impl", "numba.textbook"]
TRAIN = ["--data", "mnist5k", "--epochs", "1", "--batch", "500", "--model", "fully_connected", "--impl", "torch.aten"]
import convbench.machine.peaks
convbench.machine.peaks.measure_peaks = lambda *_, **__: []  # seconds of work that touches no file
sys.addaudithook(hook)
for words in (
    ["run", "tiny.toml", "--quick", *FEW, "--max-time", "0.02", "--out", "out/run"],
    ["repro", "out/run", "a"],
    ["list"],
    ["machine"],
    ["count", "tiny.toml", "--save-suite", "out/saved.toml"],
    ["verify", "tiny.toml", "--device", "cpu", "--impl", "torch"],
    ["savings", "tiny.toml", "--device", "cpu", "--impl", "torch.aten", "--max-time", "0.02"],
    ["report", "out/run"],
    ["check", "out/run", "--baseline", "out/base.json", "--save-baseline", "--out", "out/check"],
    ["ab", "torch.aten", "torch.unfold", "tiny.toml", "--time-limit", "0.1", "--out", "out/ab"],
    ["compare", "out/run", "out/run/results.csv", "--out", "out/compare"],
    ["history", "out", "--out", "out/history"],
    ["profile", "net.py:make", "--input", "1,1,8,8", *FEW, "--max-time", "0.002", "--out", "out/profile"],
    ["train", "classify", *TRAIN, "--out", "out/train"],
):
    print("exit", words[0], run(words), file=log)
print(*seen, sep="\n", file=log)
"""


def without_network() -> list[str]:
    """Words before a command that take the network from it; none where the system does not let us."""
    words = ["unshare", "--net", "--map-root-user"]
    works = shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0
    return words if works else []


@pytest.fixture(scope="module")
def confined(tmp_path_factory):
    """(folder, exit codes by command, what was noted)."""
    folder = tmp_path_factory.mktemp("confined")
    for name in ("home", "work", "temporary"):
        (folder / name).mkdir()
    variables = environment(Path(__file__).parents[1]) | {
        "HOME": str(folder / "home"), "TMPDIR": str(folder / "temporary"), "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    variables["CONVBENCH_CACHE_DIR"] = str(CACHE)  # warm: compiling anew would take most of the time
    words = [*without_network(), sys.executable, "-c", SCRIPT, str(folder / "work"), str(folder / "log")]
    done = subprocess.run(words, cwd=folder / "work", env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = (folder / "log").read_text().splitlines()
    codes = dict(line.split()[1:] for line in lines if line.startswith("exit "))
    return folder, codes, [line for line in lines if not line.startswith("exit ")]


def test_the_commands_work_without_a_network(confined):
    _, codes, noted = confined
    assert codes.keys() == set(COMMANDS)
    assert codes.pop("ab") in ("0", "1", "3"), "it has no time to tell"
    assert set(codes.values()) == {"0"}, codes
    assert [line for line in noted if not line.startswith("write ")] == []


def test_they_write_to_the_output_folder_and_the_cache_only(confined):
    folder, _, noted = confined
    paths = {line.removeprefix("write ") for line in noted if line.startswith("write ")}
    allowed = tuple(f"{path}{os.sep}" for path in (folder / "work/out", folder / "temporary", CACHE))
    assert [path for path in paths if not path.startswith((*allowed, "/dev/"))] == []
    assert any("/run.json" in path for path in paths)  # the hook sees writes
    assert list((folder / "home").iterdir()) == []
    assert {path.name for path in (folder / "work").iterdir()} == {"out", "tiny.toml", "net.py"}
    assert [path for path in (folder / "temporary").iterdir() if not path.name.startswith("torchinductor_")] == []
