"""How a profile measures."""

from __future__ import annotations

from dataclasses import dataclass

from convbench.case import Case
from convbench.isolate import Isolated
from convbench.measure import Policy
from convbench.plugin import Implementation
from convbench.registry import CHANNELS_LAST, REFERENCE
from convbench.run import Plan
from convbench.spec import Pass

PRECISION = 0.02  # of a layer alone


@dataclass(frozen=True)
class Options:
    """How to measure.

    passes          what of the step is wanted: forward alone leaves the backward pass out
    cell_s          most seconds of samples for one implementation of one layer alone, and ...
    alone_s         ... for all of them together, so that the default stays near a minute
    step_s          most seconds of samples for the step, and for the step under each change
    usual_threads   what the user's torch takes without being told
    isolated        implementations that run alone in the worker
    """

    passes: tuple[Pass, ...]
    implementations: list[Implementation]
    threads: int
    usual_threads: int
    cell_s: float = 0.15
    alone_s: float = 15.0
    step_s: float = 2.0
    seed: int = 0
    isolated: frozenset[str] = frozenset()
    worker: Isolated | None = None

    @property
    def torchs(self) -> list[Implementation]:
        """Torch's own, in both layouts."""
        return [i for i in self.implementations if i.name in (REFERENCE, CHANNELS_LAST)]

    def covered(self, cases: list[Case]) -> list[Case]:
        """Those that an implementation computes; all where none does, so that the run says why."""
        return [case for case in cases if not all(i.supports(case) for i in self.implementations)] or cases

    def plan(self, cases: list[Case], implementations: list[Implementation], shared_s: float) -> Plan:
        """What to run alone, in ``shared_s`` seconds of samples at most."""
        cells = sum(not i.supports(case) for case in cases for i in implementations)
        policy = Policy(PRECISION, min(self.cell_s, shared_s / max(cells, 1)))
        return Plan(cases, implementations, policy, self.threads, self.seed, isolated=self.isolated)
