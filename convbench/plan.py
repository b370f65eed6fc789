"""What to run: cases from suites and options, and the implementations that can compute them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from convbench.case import Case, DType
from convbench.errors import InputError
from convbench.plugin import Implementation
from convbench.registry import REFERENCE, Registry
from convbench.results import Row
from convbench.spec import PASSES, Pass
from convbench.suites import ModelSource, resolve

PASS_GROUPS: dict[str, tuple[Pass, ...]] = {
    **{name: (name,) for name in PASSES},
    "backward": ("data_gradient", "weight_gradient"),
    "all": PASSES,
}


@dataclass(frozen=True)
class Selection:
    """What the selection options say; empty means the command's own default."""

    suites: tuple[str | ModelSource, ...] = ()
    cases: tuple[str, ...] = ()
    implementations: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    dtypes: tuple[DType, ...] = ()
    passes: tuple[str, ...] = ()

    @property
    def models(self) -> tuple[ModelSource, ...]:
        """The suites that are models: resolving them imports torch and runs the model's own code."""
        return tuple(suite for suite in self.suites if isinstance(suite, ModelSource))

    def expanded_passes(self, default: str) -> tuple[Pass, ...]:
        """The passes chosen, each once, in the order of convbench.spec.PASSES."""
        chosen = {p for name in self.passes or (default,) for p in PASS_GROUPS[name]}
        return tuple(p for p in PASSES if p in chosen)

    def keeps(self, row: Row) -> bool:
        """Whether a row of a record is among what is selected; without options every row is."""
        return (
            (not self.suites or row.suite in self.suites)
            and _matches(row.case, self.cases)
            and (not self.implementations or not _names(row).isdisjoint(self.implementations))
            and (not self.devices or row.device in self.devices)
            and (not self.dtypes or row.dtype in self.dtypes)
            and (not self.passes or row.pass_ in self.expanded_passes("all"))
        )


def select_cases(selection: Selection, default_suite: str, default_pass: str, devices: Sequence[str]) -> list[Case]:
    """Every layer chosen x pass x dtype x device, in the suites' order.

    Raises InputError for an unknown suite, a bad suite file, or a --case that matches nothing.
    """
    suites = list(dict.fromkeys(resolve(name) for name in selection.suites or (default_suite,)))
    if len({suite.name for suite in suites}) < len(suites):
        names = ", ".join(suite.name for suite in suites)
        raise InputError(f"--suite: two different suites have the same name ({names}); change [suite] name in the file")
    cases = [
        Case(layer.spec, pass_, dtype, device, suite.name, layer.name, layer.count)
        for suite in suites
        for layer in suite.layers
        if _matches(layer.name, selection.cases)
        for device in devices
        for dtype in selection.dtypes or ("float32",)
        for pass_ in selection.expanded_passes(default_pass)
    ]
    if not cases:
        wanted = ", ".join(selection.cases)
        raise InputError(
            f"--case {wanted}: no layer of {', '.join(s.name for s in suites)} matches; see `convbench list`"
        )
    return list(dict.fromkeys(cases))


def check_precision(cases: Iterable[Case]) -> None:
    """Refuse to compute nothing: raises InputError where every case is in TF32 and on a CPU."""
    if all(case.dtype == "tf32" and case.device == "cpu" for case in cases):
        raise InputError("--dtype tf32: a precision of CUDA devices; add --device cuda, or take float32")


def check_suites(selection: Selection, default_suite: str) -> None:
    """Refuse a wrong suite or layer before anything slow is imported. A model, which needs torch, is left for later."""
    if not selection.models:
        select_cases(selection, default_suite, "forward", ["cpu"])


def _names(row: Row) -> set[str]:
    return {row.implementation, row.implementation.partition(".")[0]}


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) or name == pattern for pattern in patterns)


def device_name(name: str) -> str:
    """cpu or cuda:N, whether or not this machine has it. Raises InputError for anything else."""
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if not found:
        raise InputError(f"--device {name}: expected cpu, cuda or a GPU by its number such as cuda:1")
    return name if name == "cpu" else f"cuda:{int(found[1] or 0)}"


def select_devices(names: Sequence[str]) -> list[str]:
    """Devices by name, checked; without a name the first CUDA device, or the CPU where there is none."""
    devices = list(dict.fromkeys(map(device_name, names)))
    import torch

    if not names:
        return ["cuda:0"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        if device != "cpu" and int(device.removeprefix("cuda:")) >= torch.cuda.device_count():
            raise InputError(f"--device {device}: torch {torch.__version__} finds no such GPU; use --device cpu")
    return devices


def select_implementations(registry: Registry, selection: Selection, everything: bool = False) -> list[Implementation]:
    """The implementations asked for, the reference first; those on request by name or with everything.

    Raises InputError for a name that nothing answers to, or when the reference itself is missing.
    """
    if REFERENCE not in registry.implementations:
        raise InputError(
            f"{REFERENCE}, the reference, is missing: {registry.unavailable.get('torch', 'not registered')}"
        )
    chosen = [
        i
        for i in registry.select(selection.implementations)
        if everything or not i.on_request or i.name in selection.implementations
    ]
    return list({i.name: i for i in (registry.implementations[REFERENCE], *chosen)}.values())
