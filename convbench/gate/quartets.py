"""Takes one quartet: four fresh processes, alive together, that sample in turns.

Processes one after the other would see a different machine each; here no two samples that are compared are further
apart than a turn. Each process waits without using the CPU while it is not its turn.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Timer
from typing import IO, Any

import msgspec

from convbench.errors import ConvbenchError
from convbench.gate.procedure import ARMS, Arm, Quartet, Step
from convbench.gate.request import Request
from convbench.gate.sides import Side
from convbench.machine.noise import disturbances, snapshot
from convbench.untrusted import DECODE_ERRORS, one_line

# A quartet is dropped beyond these. Others hit all processes alike, turn by turn, unless they come and go meanwhile.
FOREIGN_CPUS, STEAL = 0.25, 0.05
TURNS = 12  # samples of each cell in each process
BALANCED = ((0, 1, 3, 2), (1, 2, 0, 3), (2, 3, 1, 0), (3, 0, 2, 1))  # each after each other once (Williams, 1949)
WORKER = str(Path(__file__).with_name("worker.py"))
LONGEST_S = 1200  # of a process, before it is taken for hung


class GateError(ConvbenchError):
    """A side that cannot be run."""


class Process:
    """A running worker. Leaving the context ends it."""

    def __init__(self, side: Side, request: Request, log: Path) -> None:
        self.side, self.log = side, log
        self.process = subprocess.Popen(
            [side.python, "-P", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("wb"),
            env=side.environment(), start_new_session=True, text=True,
        )  # fmt: skip
        self.timer = Timer(LONGEST_S, self.process.kill)
        self.timer.daemon = True
        self.timer.start()
        self._tell(msgspec.json.encode(request).decode())

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: Any) -> None:
        self.timer.cancel()
        self.process.kill()
        self.process.communicate()

    def ask(self, command: str) -> Any:
        self._tell(command)
        return self.answer()

    def answer(self) -> Any:
        """The next line it says. Raises GateError where it ended instead."""
        line = _open(self.process.stdout).readline()
        try:
            if line:
                return msgspec.json.decode(line)
        except DECODE_ERRORS:
            raise GateError(f"{self.side.name}: its process said {one_line(line)[:80]}; see {self.log}") from None
        code = self.process.wait()
        raise GateError(f"{self.side.name}: its process ended with {code}: {last_line(self.log)}; see {self.log}")

    def _tell(self, text: str) -> None:
        try:
            print(text, file=_open(self.process.stdin), flush=True)
        except BrokenPipeError:
            self.answer()


def _open(stream: IO[str] | None) -> IO[str]:
    assert stream
    return stream


def last_line(log: Path) -> str:
    """What a process complained about last."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"


def take(
    number: int, step: Step, sides: Mapping[Arm, Side], requests: Mapping[Arm, Request], folder: Path
) -> Quartet:  # fmt: skip
    """Start the processes, let them take turns in balanced random order, and say what disturbed them."""
    order = random.Random(requests[ARMS[0]].seed)
    with ExitStack() as stack:
        processes = {
            arm: stack.enter_context(Process(sides[arm], requests[arm], folder / f"{arm}.log"))
            for arm in order.sample(ARMS, len(ARMS))
        }
        for process in processes.values():
            process.answer()  # ready
        before = snapshot()
        for arm in order.sample(ARMS, len(ARMS)):
            processes[arm].ask("warm-up")
        for turn in turns(order):
            for arm in turn:
                processes[arm].ask("turn")
        disturbed = disturbances(before, snapshot(), FOREIGN_CPUS, STEAL)
        samples_s = {arm: processes[arm].ask("stop") for arm in ARMS}
    return Quartet(number=number, phase=step.phase, samples_s=samples_s, disturbed=disturbed)


def turns(order: random.Random, count: int = TURNS) -> list[Sequence[Arm]]:
    """Orders of the arms, random but for this: each arm has each place, and follows each other, equally often."""
    found: list[Sequence[Arm]] = []
    while len(found) < count:
        arms = order.sample(ARMS, len(ARMS))
        found += [tuple(arms[place] for place in row) for row in order.sample(BALANCED, len(BALANCED))]
    return found[:count]
