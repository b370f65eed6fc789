"""The registry: what loads is offered, what does not is one line, and nothing else suffers."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.metadata import EntryPoint, entry_points

import pytest
import torch

from convbench import trial
from convbench.case import Case
from convbench.errors import InputError
from convbench.plugin import Implementation, Kernel
from convbench.registry import KERNELS_GROUP, Broken, Registry, collect, registry
from convbench.spec import PASSES, ConvSpec
from convbench.verify import Checker
from tests.conftest import environment


def named(name: str) -> Implementation:
    return Implementation(name, lambda case: "", lambda case: Kernel(lambda: None, "none"))


def point(family: str, source: str, plugin_path, monkeypatch) -> EntryPoint:
    """The entry point of a plug-in of that source, on sys.path."""
    monkeypatch.syspath_prepend(plugin_path(family, source))
    monkeypatch.delitem(sys.modules, f"convbench_{family}_plugin", raising=False)
    return next(p for p in entry_points(group=KERNELS_GROUP) if p.name == family)


TORCH = EntryPoint("torch", "convbench_kernels.torch_ops:implementations", KERNELS_GROUP)
OFFERS = "from convbench.plugin import Implementation, Kernel\n"


def test_our_own_come_in_by_the_door_of_the_others():
    assert {p.name for p in entry_points(group=KERNELS_GROUP)} >= {"torch", "numba", "triton"}
    assert next(iter(registry().implementations)) == "torch.aten"
    assert all(i.summary for i in registry().implementations.values())


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import package_nobody_has", "package_nobody_has is not installed"),
        ("import package_nobody_has.part", "package_nobody_has is not installed"),
        ("raise RuntimeError('no such\\ndriver')", "RuntimeError: no such driver"),
        ("def make(: pass", "SyntaxError"),
        ("make = None", "TypeError"),
        ("x = 1", "AttributeError"),
        ("def make(): return ['numba']", "gave str, expected Implementation"),
        ("def make(): yield from (); raise OSError()", "OSError: no message"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        (
            OFFERS + "def make(): return [Implementation('torch.aten', None, None)]",
            "'torch.aten', expected failing.algorithm",
        ),
        (OFFERS + "def make(): return 2 * [Implementation('failing.a', None, None)]", "'failing.a' is already taken"),
        (OFFERS + "def make(): return [Implementation('failing.\\x1b[31m', None, None)]", "expected failing.algorithm"),
        (OFFERS + "def make(): return [Implementation(3, None, None)]", "named 3, expected failing.algorithm"),
    ],
)
def test_a_plug_in_that_fails_is_one_line_and_the_rest_loads(source, reason, plugin_path, monkeypatch):
    found = collect([point("failing", source, plugin_path, monkeypatch), TORCH])
    assert reason in found.unavailable["failing"]
    assert "\n" not in found.unavailable["failing"]
    assert "torch.aten" in found.implementations
    assert found.implementations["torch.aten"].supports is not None


def test_what_a_failing_plug_in_offered_before_it_failed_stays(plugin_path, monkeypatch):
    source = OFFERS + "def make():\n    yield Implementation('half.one', None, None)\n    raise OSError('disk')\n"
    found = collect([point("half", source, plugin_path, monkeypatch)])
    assert list(found.implementations) == ["half.one"]
    assert "OSError: disk" in found.unavailable["half"]


def test_the_example_plug_in_computes(example_plugin_path, monkeypatch):
    for folder in example_plugin_path:
        monkeypatch.syspath_prepend(folder)
    found = collect(entry_points(group=KERNELS_GROUP))
    implementation = found.implementations["example.shift_and_add"]
    spec = ConvSpec.create((2, 5, 12, 9), 7, (3, 4), stride=(2, 1), padding=(1, 0), bias=True)
    case = Case(spec)
    assert implementation.supports(case) == ""
    with torch.inference_mode():
        checker, kernel = Checker(case), implementation.build(case)
        assert kernel.algorithm == "12 taps"
        assert checker.before(implementation, kernel).status == "ok"
        assert checker.after(implementation, kernel).status == "ok"
    assert all(implementation.supports(Case(spec, pass_)) for pass_ in PASSES[1:])


LIST = "from convbench.registry import registry as r; print(*r().implementations, *r().unavailable.items(), sep='\\n')"


def test_plug_ins_in_a_new_process(example_plugin_path, plugin_path):
    """PYTHONPATH is enough; one that raises, and those that end the process that imports them, cost nobody else."""
    sources = {
        "failing": "raise RuntimeError('no such\\ndriver')",
        "leaving": "import os; os._exit(0)",
        "faulting": "import ctypes; ctypes.string_at(0)",
        "late": "import os\ndef make():\n    yield os.abort()",
        "asked": OFFERS + "import os\ndef make(): return [Implementation('asked.a', lambda case: os.abort(), None)]",
    }
    folders = [plugin_path(family, source) for family, source in sources.items()]
    done = subprocess.run(
        [sys.executable, "-c", LIST], env=environment(*example_plugin_path, *folders), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {"example.shift_and_add", "torch.aten", "numba.direct"} < set(lines)
    for family, reason in (
        ("failing", "failed to load: RuntimeError: no such driver"),
        ("leaving", "ended its process with exit status 0 when it was tried"),
        ("faulting", "ended its process by SIGSEGV when it was tried"),
        ("late", "ended its process by SIGABRT when it was tried"),
        ("asked", "ended its process by SIGABRT when it was tried"),
    ):
        assert str((family, f"convbench_{family}_plugin:make {reason}")) in lines


def test_a_copy_that_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr(trial, "LONGEST_S", 0.05)
    assert trial.ending(lambda: time.sleep(60)) == "did not end within 0 s"
    assert trial.ending(lambda: 1 / 0) == ""


# Choosing ---------------------------------------------------------------------------------------

SOME = Registry(
    {n: named(n) for n in ("torch.aten", "numba.direct", "numba.auto")}, {"triton": "triton is not installed"}
)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], ["torch.aten", "numba.direct", "numba.auto"]),
        (["numba"], ["numba.direct", "numba.auto"]),
        (["numba.auto", "torch"], ["numba.auto", "torch.aten"]),
        (["numba.auto", "numba"], ["numba.auto", "numba.direct"]),
    ],
)
def test_select(names, expected):
    assert [i.name for i in SOME.select(names)] == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("numba.dirct", "did you mean 'numba.direct'"),
        ("triton.depthwise", "unavailable: triton is not installed"),
        ("triton", "unavailable: triton is not installed"),
        ("cuda", "`convbench list` shows what is"),
        ("", "`convbench list` shows what is"),
    ],
)
def test_select_says_what_is_wrong_in_one_line(name, message):
    with pytest.raises(InputError, match=message) as caught:
        SOME.select([name])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise RuntimeError('no\\nway')", "supports() failed: RuntimeError: no way"),
        ("exit(3)", "supports() failed: SystemExit: 3"),
        ("return None", "supports() gave None, expected '' or the reason"),
    ],
)
def test_supports_that_does_not_answer_is_a_fault_of_the_kernel(body, reason, plugin_path, monkeypatch):
    source = OFFERS + f"def asked(case): {body}\ndef make(): return [Implementation('failing.a', asked, None)]"
    found = collect([point("failing", source, plugin_path, monkeypatch)])
    answer = found.implementations["failing.a"].supports(Case(ConvSpec.create([1, 1, 3, 3], 1, 3)))
    assert isinstance(answer, Broken)
    assert answer == reason
