"""Cases in a worker process, so that a kernel that crashes or hangs costs its own cell only. Also the worker's script.

An isolated implementation is asked there too whether it supports a case, once for each. A whole case runs in one
worker, the reference and all others interleaved, so its ratios are as honest as in this process. Where the worker dies,
falls silent or runs out of memory, the implementation whose turn it was is named, and the case begins again in a new
worker without it. Before each turn the worker leaves the implementation's number in shared memory, outside what is
timed. What kernels print is thrown away. Requests and answers are JSON lines; nothing is unpickled. The cost: some
three seconds for a worker to start, once a run and once more for each crash.

Not contained: what a kernel does to files or other processes. This is no sandbox against malice.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import subprocess
import sys
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib import import_module
from tempfile import TemporaryFile
from time import monotonic
from typing import IO, Any, TypeVar

import msgspec
from msgspec import Struct

from convbench.case import Case
from convbench.measure import Policy
from convbench.plugin import SUPPORTED, Implementation
from convbench.registry import Broken, families
from convbench.results import Record, RecordedRow, Status
from convbench.rows import Cell, make_row
from convbench.run import Plan, Progress, Stopwatch, open_cells, run_case, verify_case
from convbench.untrusted import LARGEST_BYTES

SILENCE_S = 120.0  # without a next turn: a hang. Compiling is one turn
ANSWER_S = 10.0  # the same for supports(), which only looks at a shape
STARTING_S = 600.0  # in nobody's turn: imports, and the data and reference of a case
FORKED = 77  # exit status of a worker whose kernel forked
CLOSING_S = 5.0  # from the end of a process's answers to its own
POLL_S = 0.5
_TURN, _COUNT = 0, slice(1, 9)  # of the shared bytes: whose turn it is, and how many there were


T = TypeVar("T", bound=Struct)
Fall = tuple[int, Status, str]  # who brought the worker down (its place from 1, 0 for nobody), and how


class Question(Struct, tag=True):
    """Whether an implementation supports a case."""

    case: Case
    implementation: str
    memory_bytes: int


class Reply(Struct, tag=True):
    """What supports() answered, and the status of the row where that is a fault."""

    answer: str
    broken: Status | None


class Request(Struct, tag=True):
    """One case to run on implementations that support it; record has no rows."""

    case: Case
    implementations: list[str]
    policy: Policy
    threads: int
    seed: int
    record: Record
    timed: bool
    memory_bytes: int


class Answer(Struct, tag=True):
    """Its rows, and where the time went."""

    rows: list[RecordedRow]
    seconds: dict[str, float]


@dataclass
class Isolated:
    """Runs cases in a worker, which is started when needed and after a crash. Close it at the end.

    timed         verify and time, otherwise verify only
    silence_s     seconds in one implementation's turn after which it hangs
    answer_s      the same for supports()
    memory_bytes  that a worker may take beyond its start; None for what the machine has available
    """

    timed: bool = True
    silence_s: float = SILENCE_S
    answer_s: float = ANSWER_S
    memory_bytes: int | None = None
    _worker: _Worker | None = None
    _answers: dict[tuple[str, Case], str] = field(default_factory=dict)

    def shield(self, implementations: Iterable[Implementation], isolated: Container[str]) -> list[Implementation]:
        """The same implementations; those isolated answer supports() from the worker, which their code may end."""
        return [
            replace(i, supports=partial(self._supports, i.name)) if i.name in isolated else i for i in implementations
        ]

    def _supports(self, name: str, case: Case) -> str:
        if (name, case) not in self._answers:
            found = self._ask(Question(case, name, self._memory()), Reply, self.answer_s)
            if isinstance(found, tuple):
                found = Reply(f"supports(): {found[2]}", found[1])
            self._answers[name, case] = Broken(found.answer, found.broken) if found.broken else found.answer
        return self._answers[name, case]

    def __call__(self, case: Case, plan: Plan, record: Record, progress: Progress | None,
                 watch: Stopwatch) -> list[RecordedRow]:  # fmt: skip
        cells = open_cells(case, plan)
        if progress:
            progress.case(case, sum(cell.status == "ok" for cell in cells))
        fallen = {cell.implementation.name: cell for cell in cells if cell.status != "ok"}
        rows = {name: make_row(case, cell, None, record, plan.policy) for name, cell in fallen.items()}
        while left := [cell.implementation for cell in cells if cell.implementation.name not in rows]:
            found = self._ask(self._request(case, replace(plan, implementations=left), record), Answer, self.silence_s)
            if isinstance(found, Answer) and [row.implementation for row in found.rows] != [i.name for i in left]:
                found = self._forged()
            if isinstance(found, Answer):
                watch.seconds.update(found.seconds)
                greedy = next((row for row in found.rows if row.status == "out_of_memory"), None)
                if not greedy:
                    rows |= {row.implementation: row for row in found.rows}
                    break
                rows[greedy.implementation] = greedy  # what ran after it found a process without memory
                self.close()
                continue
            number, status, detail = found
            for i in left[number - 1 : number] or left:  # in no one's turn: none can be worked on
                rows[i.name] = make_row(case, Cell(i, status=status, detail=detail), None, record, plan.policy)
        return [rows[cell.implementation.name] for cell in cells]

    def _forged(self) -> Fall:
        assert self._worker
        turn = self._worker.shared[_TURN]
        self.close()  # its real answer is still to come
        return turn, "error", "wrote to the pipe of its process's answers"

    def close(self) -> None:
        """End the worker and whatever its kernels started."""
        if self._worker:
            self._worker.close()
            self._worker = None

    def _memory(self) -> int:
        import psutil

        return self.memory_bytes or psutil.virtual_memory().available

    def _request(self, case: Case, plan: Plan, record: Record) -> Request:
        return Request(case, [i.name for i in plan.implementations], plan.policy, plan.threads, plan.seed,
                       msgspec.structs.replace(record, rows=[]), self.timed, self._memory())  # fmt: skip

    def _ask(self, asked: Question | Request, answer: type[T], silence_s: float) -> T | Fall:
        self._worker = self._worker or _Worker()
        found = self._worker.ask(asked, answer, silence_s)
        if isinstance(found, tuple):
            self.close()
        return found


class _Worker:
    """One process in a session of its own, so that all it started can be ended with it."""

    def __init__(self) -> None:
        with TemporaryFile() as file:
            file.truncate(mmap.PAGESIZE)
            self.shared = mmap.mmap(file.fileno(), mmap.PAGESIZE)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "convbench.isolate", str(file.fileno())], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=[file.fileno()], start_new_session=True,
            )  # fmt: skip

    def ask(self, asked: Question | Request, answer: type[T], silence_s: float) -> T | Fall:
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin
            self.process.stdin.write(msgspec.json.encode(asked) + b"\n")
            self.process.stdin.flush()
        line, turn, since = bytearray(), b"", monotonic()
        while not line.endswith(b"\n") and len(line) < LARGEST_BYTES:
            if self._readable():
                assert self.process.stdout
                if not (part := os.read(self.process.stdout.fileno(), 1 << 20)):
                    return (self.shared[_TURN], *self._cause())
                line += part
            elif turn != (now := self.shared[_COUNT]):
                turn, since = now, monotonic()
            elif monotonic() - since > (limit := silence_s if self.shared[_TURN] else STARTING_S):
                return self.shared[_TURN], "timeout", f"no sign of life for {limit:.0f} s; its process was ended"
            elif self.process.poll() is not None and not self._readable():  # a child of a kernel holds the pipe open
                return (self.shared[_TURN], *self._cause())
        try:
            return msgspec.json.decode(line, type=answer)
        except msgspec.DecodeError as error:
            return self.shared[_TURN], "error", f"its process gave no answer: {error}"

    def _readable(self) -> bool:
        assert self.process.stdout
        return bool(select.select([self.process.stdout], [], [], POLL_S)[0])

    def _cause(self) -> tuple[Status, str]:
        try:
            code = self.process.wait(CLOSING_S)
        except subprocess.TimeoutExpired:
            return "crashed", "closed the files of its process"
        if code == FORKED:
            return "error", "forked its process"
        if code < 0:
            return "crashed", f"its process was ended by {signal.Signals(-code).name}"
        return "crashed", f"ended its process with exit status {code}"

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self.shared.close()


# The worker's side -------------------------------------------------------------------------------------


def serve(requests: IO[bytes], answers: int, shared: mmap.mmap) -> None:
    """Answer until nothing is asked any more."""
    for line in requests:
        asked = msgspec.json.decode(line, type=Question | Request)
        _turn(shared, 0)
        answer = _answer(asked, shared) if isinstance(asked, Question) else _work(asked, shared)
        _turn(shared, 0)
        data = memoryview(msgspec.json.encode(answer) + b"\n")
        while data:
            data = data[os.write(answers, data) :]


def _turn(shared: mmap.mmap, number: int) -> None:
    """Whose code runs next, for the parent to see."""
    shared[_COUNT] = (int.from_bytes(shared[_COUNT]) + 1).to_bytes(8)
    shared[_TURN] = number


def _answer(question: Question, shared: mmap.mmap) -> Reply:
    implementation = _implementation(question.implementation)
    with _limited_memory(question):
        _turn(shared, 1)
        answer = implementation.supports(question.case)
    return Reply(str(answer), answer.status if isinstance(answer, Broken) else None)


@cache
def _implementation(name: str) -> Implementation:
    (found,) = families([name.partition(".")[0]]).select([name])
    return found


def _work(request: Request, shared: mmap.mmap) -> Answer:
    import torch

    from convbench.process import precision, prepare, return_freed_memory

    numbers = {name: number for number, name in enumerate(request.implementations, 1)} | {"": 0}

    def working(name: str) -> None:
        _turn(shared, numbers[name])

    prepare(request.threads)
    chosen = []
    for name in request.implementations:
        working(name)
        chosen.append(replace(_implementation(name), supports=lambda case: SUPPORTED))  # the parent has asked
    working("")
    plan = Plan([request.case], chosen, request.policy, request.threads, request.seed)
    watch = Stopwatch()
    for lazy in ("scipy.stats", "torch._dynamo"):  # loaded in a kernel's turn, they would be of its time and memory
        import_module(lazy)
    with _limited_memory(request), torch.inference_mode(), precision(request.case.device, request.case.dtype):
        run: Any = run_case if request.timed else verify_case
        rows = list(run(request.case, plan, request.record, _Unseen(), watch, working))
    return_freed_memory()
    return Answer(rows, watch.seconds)


@contextlib.contextmanager
def _limited_memory(asked: Question | Request) -> Iterator[None]:
    """So that allocating without end fails in this process; CUDA reserves addresses far beyond, so not there."""
    if not sys.platform.startswith("linux") or asked.case.device != "cpu":
        yield
        return
    import resource

    import psutil

    before, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = psutil.Process().memory_info().vms + asked.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, most))


class _Unseen:
    """A worker shows no progress."""

    def case(self, case: Case, implementations: int) -> None: ...
    def sample(self, seconds: float) -> None: ...
    def done(self, rows: list[RecordedRow]) -> None: ...


def _end_with_parent() -> None:
    """A kernel that hangs does not outlive a parent that was killed."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, linux/prctl.h


def main() -> None:
    """Keep the pipe for answers, and give kernels nothing to print to or to read from."""
    from convbench.process import keep_freed_memory

    shared = mmap.mmap(int(sys.argv[1]), mmap.PAGESIZE)
    requests, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    for number in (signal.SIGINT, signal.SIGALRM):  # the parent decides, and no kernel over the others
        signal.signal(number, signal.SIG_IGN)
    _end_with_parent()
    os.register_at_fork(after_in_child=lambda: os._exit(0), after_in_parent=lambda: os._exit(FORKED))
    keep_freed_memory()
    serve(requests, answers, shared)


if __name__ == "__main__":
    main()
