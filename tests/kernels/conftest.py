"""Compiling for lesser CPUs takes longest: it begins when the tests do, in processes beside them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from convbench_kernels.numba_cpu import jit


@pytest.fixture(autouse=True, scope="session")
def _small_work_is_shared() -> Iterator[None]:
    """Tensors of tests are small: here they are shared out among threads all the same."""
    kept, jit.SMALL = jit.SMALL, 1
    yield
    jit.SMALL = kept


class Beside:
    """Commands that run one after the other beside the tests."""

    def __init__(self) -> None:
        self.worker = ThreadPoolExecutor(max_workers=1)
        self.running: dict[str, Future[tuple[int, str]]] = {}
        self.process: subprocess.Popen[str] | None = None

    def start(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.running[name] = self.worker.submit(self._run, command, environment)

    def _run(self, command: list[str], environment: dict[str, str]) -> tuple[int, str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)
        printed, _ = self.process.communicate()
        return self.process.returncode, printed

    def stop(self) -> None:
        """Wait for nothing."""
        self.worker.shutdown(wait=False, cancel_futures=True)
        if self.process:
            self.process.kill()


BESIDE = pytest.StashKey[Beside]()


def pytest_collection_finish(session: pytest.Session) -> None:
    beside = session.config.stash[BESIDE] = Beside()
    session.config.add_cleanup(beside.stop)
    if not session.config.option.collectonly:
        for item in session.items:
            if isinstance(item, pytest.Function) and "finished" in item.fixturenames:
                beside.start(item.nodeid, *item.module.command(item.callspec.params["isa"]))


@pytest.fixture
def finished(request: pytest.FixtureRequest, isa: str) -> tuple[int, str]:
    """Exit status and text of the process that the test's module starts by command(isa), when it is done."""
    return request.config.stash[BESIDE].running[request.node.nodeid].result()
