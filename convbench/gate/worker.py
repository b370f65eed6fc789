"""One side's process: builds its kernels, then takes samples when it is told to. Runs as a script.

The kernels are the side's; the code that feeds and times them is the caller's, the same on both sides: whatever
convbench the side has installed, this file's own folder is imported in its place. Lines on stdin: a Request as JSON,
then "warm-up" once, "turn" as often as wanted, "stop". Each is answered by one line on stdout; what a kernel prints
goes to stderr.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convbench.gate.request import Request
    from convbench.measure import Call, Sampler


def import_own_convbench() -> None:
    """Make ``import convbench`` find the package that this file lies in."""
    folder = Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location(
        "convbench", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec and spec.loader
    sys.modules["convbench"] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)


def calls(request: Request) -> dict[str, dict[str, Call]]:
    """Device -> cell -> a call of its kernel on operands of its own layout, built and called once."""
    from functools import partial

    from convbench.operands import in_layout, reals

    implementations = load(family(cell.implementation) for cell in request.cells)
    found: dict[str, dict[str, Call]] = {}
    kept: dict[Any, tuple] = {}
    for cell in request.cells:
        implementation = implementations[cell.implementation]
        kernel = implementation.build(cell.case)
        key = cell.case, implementation.layout
        if key not in kept:
            tensors = in_layout(reals(cell.case, request.seed), implementation.layout).values()
            kept[key] = tuple(tensor.clone() for tensor in tensors)
        operands = kernel.prepare(*kept[key]) if kernel.prepare else kept[key]
        call = slowed(partial(kernel.run, *operands), request.slowdown)
        call()
        found.setdefault(cell.case.device, {})[cell.label] = call
    return found


def family(implementation: str) -> str:
    return implementation.split(".", 1)[0]


def load(families: Any) -> dict[str, Any]:
    """Implementations of these families only: a process should start soon."""
    from importlib.metadata import entry_points

    from convbench.registry import KERNELS_GROUP, collect

    wanted = set(families)
    return collect(p for p in entry_points(group=KERNELS_GROUP) if p.name in wanted).implementations


def slowed(call: Call, share: float) -> Call:
    """The call, and busy waiting for this share of its time: the injected regression of a canary."""
    from time import perf_counter_ns

    if not share:
        return call

    def slow() -> object:
        begun = perf_counter_ns()
        result = call()
        ended = perf_counter_ns()
        until = ended + (ended - begun) * share
        while perf_counter_ns() < until:
            pass
        return result

    return slow


def samplers(request: Request, found: dict[str, dict[str, Call]]) -> list[Sampler]:
    """Everything warmed up."""
    from convbench.machine.cuda_timer import CudaTimer
    from convbench.measure import Sampler, host_timer

    return [
        Sampler(calls, request.policy, CudaTimer(device) if device.startswith("cuda") else host_timer, request.seed)
        for device, calls in found.items()
    ]


def samples_s(sampled: list[Sampler]) -> dict[str, list[float]]:
    """Cell -> seconds of one call, one value a turn."""
    return {name: samples.seconds for sampler in sampled for name, samples in sampler.samples.items()}


def serve(request: Request, line: Callable[[], str], say: Callable[[object], None]) -> None:
    """Answer commands until told to stop, or until nobody asks any more."""
    import torch

    with torch.inference_mode():
        found = calls(request)
        gc.freeze()
        gc.enable()
        say("ready")
        sampled: list[Sampler] = []
        while (command := line()) and command != "stop":
            if command == "warm-up":
                sampled = samplers(request, found)
            for sampler in sampled if command == "turn" else []:
                sampler.round(sampler.calls)
            say(command)
        say(samples_s(sampled))


def main() -> None:
    gc.disable()  # until all is built: it would look through torch's modules again and again
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import_own_convbench()
    import msgspec

    from convbench.gate.request import Request
    from convbench.process import keep_freed_memory, prepare

    request = msgspec.json.decode(sys.stdin.readline(), type=Request)
    keep_freed_memory()
    prepare(request.threads)
    serve(
        request,
        line=lambda: sys.stdin.readline().strip(),
        say=lambda answer: print(msgspec.json.encode(answer).decode(), file=answers, flush=True),
    )


if __name__ == "__main__":
    main()
