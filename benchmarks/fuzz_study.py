"""Mutated files for every command that reads one: python -m benchmarks.fuzz_study [--inputs 10000] [--seed 0]

Each input is a real run.json, results.csv, pytest-benchmark JSON, journal, suite, profile, checkpoint or training
result with something wrong with it (mutations.py). It is given to a command in this process, whose address space may
grow by 1 GiB and whose time is limited. A finding is an exception that reaches the command line, a hang, memory beyond
the limit, an exit code that is not documented, more than one line of complaint, a file opened or a process started
because the input says so, something unpickled, or a control or direction character, a formula or a tag of the input in
what is printed or written.
What would be measured (run --resume, repro, ab --resume, train --resume) is only prepared. Findings are printed; --keep
keeps inputs, --kinds names the kinds to try.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import faulthandler
import gc
import io
import re
import resource
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.mutations import CANARY, mutated, originals
from convbench.cli.main import run
from convbench.results import FORMULA_STARTS

MEMORY_BYTES = 2**30
LONGEST_S = 20
CODES = (0, 1, 2, 3, 4)
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect",
             "pickle.find_class")  # fmt: skip
LOOKING = ("open", "os.", "glob.", "shutil.", "import")  # at what a path leads to

# kind -> command lines; {file} is the mutated file, {good} the original, {out} an empty folder
COMMANDS: dict[str, tuple[str, ...]] = {
    "record": (
        "report {file} --out {out}/report.html", "report {file} --pytest-benchmark {out}/bench.json",
        "compare {good} {file} --out {out}", "compare {file} {good} --format markdown", "compare {file} {good} --json",
        "compare {file} {file} --format csv", "compare {file} {file}", "check {file} --baseline {good} --out {out}",
        "check {good} --baseline {file} --across-machines", "history {folder} --out {out}", "history {folder} --json",
    ),
    "run.json": ("repro {file} {case}", "repro {file} {case} --json"),
    "journal.jsonl": ("run --resume {folder}",),
    "gate.jsonl": ("ab --resume {folder}", "ab --resume {folder} --json"),
    "suite.toml": ("count {file}", "count {file} --pass all --json", "count {file} --case * --save-suite {out}/s.toml"),
    "network.toml": ("count {file}", "count {file} --json"),
    "separable.json": ("savings --record {file}", "savings --record {file} --json"),
    "profile.json": (
        "compare {good} {file} --out {out}", "compare {file} {good} --format markdown", "compare {file} {good} --json",
        "compare {file} {file} --format csv", "compare {file} {good}", "compare {folder} {good}",
        "history {folder}", "report {file} --out {out}/report.html",
    ),
    "checkpoint.pt": ("train --resume {folder}", "train --resume {folder} --json"),
}  # fmt: skip
FOLDERS = ("journal.jsonl", "gate.jsonl", "checkpoint.pt")
OF_RECORDS = ("run.json", "results.csv", "bench.json", "train.json")  # or what they are not to take for one


class Hang(BaseException):
    """The input took too long."""


class Watch:
    """Sees what this process opens and starts; audit hooks cannot be taken away, so there is one."""

    def __init__(self) -> None:
        self.on, self.seen = False, list[str]()
        sys.addaudithook(self._event)

    def _event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in FORBIDDEN or (event.startswith(LOOKING) and arguments and CANARY in str(arguments[0])):
            self.seen.append(f"{event} {str(arguments[:2])[:200]}")


def commands(kind: str) -> tuple[str, ...]:
    """Command lines for a kind of file."""
    return (*(COMMANDS["record"] if kind in OF_RECORDS else ()), *COMMANDS.get(kind, ()))


@contextlib.contextmanager
def nothing_measured() -> Iterator[None]:
    """Commands that go on with a run stop where they would measure; which process they run in is not changed."""
    from unittest import mock

    import convbench.gate.driver
    from convbench.cli import run as run_command
    from convbench.machine import environment
    from convbench.run import make_row, open_cells

    def rows_only(plan: Any, record: Any, *_: Any, **__: Any) -> Any:
        record.rows += [
            make_row(c, cell, None, record, plan.policy) for c in plan.cases for cell in open_cells(c, plan)
        ]
        return record

    found = environment.detect(with_torch=True)
    with (
        mock.patch("convbench.train.session.Session.run", lambda *_: False),
        mock.patch.object(run_command, "_go", lambda plan, record, journal, *_: (record, journal.path.parent, True)),
        mock.patch("convbench.run.execute", rows_only),
        mock.patch.object(convbench.gate.driver, "go", lambda *_: False),
        mock.patch.object(environment, "detect", lambda **_: found),
    ):
        yield


class Study:
    """Runs inputs in a folder of its own."""

    def __init__(self, folder: Path, kinds: Collection[str] = ()) -> None:
        self.folder, self.watch, self.outcomes = folder, Watch(), Counter[int]()
        self.files = originals()
        self.kinds = sorted(kinds or self.files)
        assert self.files.keys() >= set(self.kinds), f"the kinds are {', '.join(self.files)}"
        self.case = re.search(rb'"case":"(.*?)"', self.files["run.json"])[1].decode()  # type: ignore[index]
        for name, data in self.files.items():
            (folder / f"good-{name}").write_bytes(data)
        self.usual = set("\n\t")

    def inputs(self) -> st.SearchStrategy[tuple[str, str, bytes]]:
        """(kind, command line, content)."""
        return st.sampled_from(self.kinds).flatmap(
            lambda kind: st.tuples(st.just(kind), st.sampled_from(commands(kind)), mutated(kind, self.files[kind]))
        )

    def learn(self) -> None:
        """The originals through every command, so that all is imported; what they show is what may be shown."""
        for kind, data in self.files.items():
            refused = self.outcomes[2]
            for command in commands(kind):
                finding = self.finding(kind, command, data)
                assert kind in ("train.json", "bench.json") or not finding, (command, finding)
                self.usual |= self.shown
            taken = len(commands(kind)) - (self.outcomes[2] - refused)
            assert taken > len(commands(kind)) / 2 or kind == "train.json", f"{kind} itself is refused"

    def finding(self, kind: str, command: str, data: bytes) -> str:
        """What is wrong with how the command takes the input, or ""."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            folder, out = Path(name) / "in", Path(name) / "out"
            folder.mkdir(), out.mkdir()
            (folder / kind).write_bytes(data)
            good = self.folder / f"good-{kind if kind in ('results.csv', 'profile.json') else 'run.json'}"
            values = {"file": folder / kind, "good": good, "out": out, "folder": folder, "case": self.case}
            words = [word.format(**values) for word in command.split(" ")]
            code, stdout, stderr, trouble = self._run(words)
            return trouble or self._look(words, code, stdout, stderr, [*folder.iterdir(), *out.iterdir()], kind)

    def _run(self, words: list[str]) -> tuple[int, str, str, str]:
        from convbench.cli import common

        common.out.cache_clear(), common.err.cache_clear()
        streams = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace"), io.StringIO()
        trouble, code = "", -1
        self.watch.seen.clear()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
        faulthandler.dump_traceback_later(3 * LONGEST_S, exit=True)
        self.watch.on = True
        try:
            redirected = contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1])
            with limited_memory(), redirected[0], redirected[1]:
                code = run(words)
        except Hang:
            trouble = f"hang: more than {LONGEST_S} s"
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            trouble = f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {str(error)[:200]}"
        finally:
            self.watch.on = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        streams[0].flush()
        return code, streams[0].buffer.getvalue().decode(), streams[1].getvalue(), trouble  # type: ignore[attr-defined]

    def _look(self, words: list[str], code: int, stdout: str, stderr: str, files: list[Path], kind: str) -> str:
        """Whether the outcome is one that may be."""
        self.outcomes[code] += 1
        if self.watch.seen:
            return f"did {self.watch.seen[0]}"
        if code not in (*CODES, *([130] if kind in FOLDERS else [])):
            return f"exit code {code}: {stderr.partition('; report it')[0][-200:]}"
        lines = [line for line in stderr.splitlines() if ": refused: " not in line]
        if code == 2 and len(lines) != 1 and (kind not in FOLDERS or len(lines) > 3):
            return f"{len(lines)} lines of complaint: {stderr[:200]!r}"
        texts = {"stderr": stderr} | ({} if "--json" in words else {"stdout": stdout})
        texts |= {
            p.name: p.read_text("utf-8")
            for p in files
            if p.suffix in (".html", ".csv", ".md", ".xml") and p.name != kind
        }
        self.shown = {c for text in texts.values() for c in set(text) if not c.isprintable()}
        if odd := self.shown - self.usual:
            where = next(name for name, text in texts.items() if odd & set(text))
            return f"{where} shows {sorted(odd)[:3]!r}"
        for name, text in texts.items():
            if (name.endswith(".csv") or "csv" in words) and (bad := next(_formulas(text), "")):
                return f"{name} has the formula {bad[:50]!r}"
            if name.endswith((".html", ".md")) and re.search(r"<img src=x|</script><script>pwned", text):
                return f"{name} has a tag of the input"
        return ""


def _formulas(text: str) -> Iterator[str]:
    for row in csv.reader(io.StringIO(text)):
        for cell in row:
            if cell.startswith(FORMULA_STARTS) and not re.fullmatch(r"[-+][\d.]+(e[-+]?\d+)?", cell):
                yield cell


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """MEMORY_BYTES more of address space than there are now."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def hang(*_: object) -> None:
    raise Hang


def keep(folder: Path | None, name: str, data: bytes) -> None:
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=[], help="such as profile.json; all without")
    parser.add_argument("--keep", type=Path, help="folder for inputs with a finding")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, hang)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name, nothing_measured():
        study = Study(Path(name), options.kinds)
        study.learn()
        gc.freeze()
        study.outcomes.clear()

        @hypothesis.seed(options.seed)
        @settings(max_examples=options.inputs, phases=[Phase.generate], database=None, deadline=None,
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(study.inputs())
        def try_one(given_: tuple[str, str, bytes]) -> None:
            kind, command, data = given_
            finding = study.finding(kind, command, data)
            if sum(study.outcomes.values()) % 20 == 0:
                gc.collect()  # what is large and in a cycle is not what the collector counts
            if finding:
                key = f"{kind}: {command}: {re.sub(r'/tmp/[^ ]*', '...', finding)}"
                found[key] += 1
                if found[key] == 1:
                    print(f"{len(found)}: {key}", flush=True)
                    keep(options.keep, f"{len(found)}-{kind}", data)

        try_one()
    count = sum(study.outcomes.values())
    codes = ", ".join(f"{code}: {times}" for code, times in sorted(study.outcomes.items()))
    print(f"{count} inputs, exit codes {codes}; {sum(found.values())} findings of {len(found)} sorts")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
