"""What a worker process is told; imports nothing that another environment may lack."""

from __future__ import annotations

from msgspec import Struct

from convbench.case import Case
from convbench.measure import Policy

PROCESS_POLICY = Policy(max_time_s=0.2, sample_s=0.008)


class Timed(Struct, frozen=True):
    """One cell as a process times it; ``label`` names it in the answer."""

    label: str
    case: Case
    implementation: str


class Request(Struct, frozen=True, kw_only=True):
    """Everything to be timed, and how; slowdown is the share of its time that each call is made longer by."""

    cells: list[Timed]
    threads: int
    seed: int
    policy: Policy = PROCESS_POLICY
    slowdown: float = 0.0
