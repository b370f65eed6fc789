"""The profile of one model: look, measure alone, try changes, and time the step with and without watching."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from convbench import __version__
from convbench.case import Case
from convbench.machine.cuda_timer import CudaTimer
from convbench.machine.noise import snapshot, warnings
from convbench.measure import Interval, Policy, Samples, Timer, host_timer, measure, median_interval, speedup
from convbench.plugin import Implementation
from convbench.profile import extras, layers
from convbench.profile.advice import advise
from convbench.profile.facts import facts_of
from convbench.profile.model import LayerRow, Profile, Step
from convbench.profile.variants import Trial, attempt, changes, without_denormals
from convbench.profile.watch import Event, Layer, Watch, forward, inspect, training, why_no_backward
from convbench.records import spec_of
from convbench.registry import CHANNELS_LAST, REFERENCE
from convbench.results import Record
from convbench.run import Plan, Progress, begin, execute
from convbench.spec import Pass
from convbench.suites.traced import Subject, no_convolution, uncompiled

PLAIN, EAGER, WATCHED = "the step", "the step, eager", "the step, watched"
STEP_PRECISION = 0.01


@dataclass(frozen=True)
class Options:
    """How to measure.

    passes          what of the step is wanted: forward alone leaves the backward pass out
    cell_s          most seconds of samples for one implementation of one layer alone, and ...
    alone_s         ... for all of them together, so that the default stays near a minute
    step_s          most seconds of samples for the step, and for the step under each change
    usual_threads   what the user's torch takes without being told
    """

    passes: tuple[Pass, ...]
    implementations: list[Implementation]
    threads: int
    usual_threads: int
    cell_s: float = 0.15
    alone_s: float = 15.0
    step_s: float = 2.0
    seed: int = 0


Live = Callable[[Plan], AbstractContextManager[Progress]]
Say = Callable[[str], object]


def profile(subject: Subject, device: str, options: Options, live: Live, say: Say) -> tuple[Profile, list[Event]]:
    """The profile, and the events of the last watched step for a trace.

    live shows the progress of what is measured alone, say one line about what comes next.
    Raises InputError for a model that fails, or in which no two-dimensional convolution runs.
    """
    before, frames = snapshot(), _compiled_frames()
    forward(subject)
    compiled = _compiled_frames() > frames
    reason = "" if options.passes == ("forward",) else why_no_backward(subject)
    run = training if options.passes != ("forward",) and not reason else forward
    watch = Watch(subject, run, device)
    watch()
    seen = [event.what for event in watch.steps[-1] if isinstance(event.what, Layer)]
    if not seen:
        raise no_convolution(subject)
    facts = facts_of(inspect(subject))
    watch()  # the first one was cold
    record = _alone(layers.cases((layer for layer in seen if layer.pass_ in options.passes), device), options, live)
    call_s = extras.call_seconds(device)
    first = layers.rows(watch.steps[-1:], 1.0, device, record.peaks, call_s, record.rows)
    _more(first, options, record, live)
    say("Timing the step, as it is and under changes ...")
    trials, samples = _steps(subject, run, watch, first, options, device, compiled, bool(facts.weight_denormals))
    watched = samples[WATCHED]
    steps = watch.steps[-len(watched.seconds) * watched.calls_per_sample :]
    eager_s = median_interval(samples[EAGER if compiled else PLAIN].seconds).value
    rows = layers.rows(steps, eager_s, device, record.peaks, call_s, record.rows)
    step = _step(subject, device, run, reason, compiled, options, samples, rows)
    step.call_s, step.operators = call_s, layers.operators(steps, eager_s)
    found = Profile(
        run_id=record.run_id, machine=record.machine, started=record.started, convbench_version=__version__, step=step,
        totals=layers.totals(rows), variants=[trial.outcome(samples, PLAIN) for trial in trials],
        separable=extras.separables(rows, record), cliffs=extras.cliffs(rows, record.rows), facts=facts,
        peaks=record.peaks, warnings=warnings(before, snapshot()), isolated=record.rows, rows=rows,
    )  # fmt: skip
    found.advice = advise(found)
    return found, steps[-1]


def _compiled_frames() -> int:
    """How many functions torch.compile has looked at in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo.counters["frames"]["total"] if dynamo else 0


def _alone(cases: list[Case], options: Options, live: Live) -> Record:
    """Every case on every implementation, verified, with the machine's peaks."""
    covered = [case for case in cases if not all(i.supports(case) for i in options.implementations)]
    plan = _plan(covered or cases, options, options.implementations, options.alone_s)
    record = begin(plan, {"threads": options.threads}, quick=True, command="profile")
    with live(plan) as progress:
        return execute(plan, record, progress)


def _more(rows: list[LayerRow], options: Options, record: Record, live: Live) -> None:
    """Add what the advice needs beside the model's own layers."""
    own = {(spec_of(row), row.pass_) for row in record.rows}
    torchs = [i for i in options.implementations if i.name in (REFERENCE, CHANNELS_LAST)]
    for cases, implementations in (
        (extras.pair_cases(rows), options.implementations),
        (extras.cliff_cases(rows), torchs),
    ):
        new = [case for case in cases if (case.spec, case.pass_) not in own]
        if new:
            plan = _plan(new, options, implementations, options.alone_s / 4)
            with live(plan) as progress:
                execute(plan, record, progress)


def _plan(cases: list[Case], options: Options, implementations: list[Implementation], shared_s: float) -> Plan:
    cells = sum(not i.supports(case) for case in cases for i in implementations)
    return Plan(cases, implementations, Policy(0.02, min(options.cell_s, shared_s / max(cells, 1))), options.threads,
                options.seed)  # fmt: skip


def _steps(
    subject: Subject, run: Callable[[Subject], object], watch: Watch, rows: list[LayerRow], options: Options,
    device: str, compiled: bool, has_denormals: bool,
) -> tuple[list[Trial], dict[str, Samples]]:  # fmt: skip
    """The step as it is, watched, and under every change that runs, in interleaved rounds."""
    timer: Timer = CudaTimer(device, hot=True) if device.startswith("cuda") else host_timer
    calls: dict[str, Callable[[], object]] = {PLAIN: lambda: run(subject), WATCHED: watch}
    if compiled:
        calls[EAGER] = lambda: _eager(run, subject)
    plain_s = sorted(timer(calls[PLAIN], 1) for _ in range(3))[1]
    tried = changes(rows, device, options.threads, options.usual_threads, rows[0].dtype)
    tried += [without_denormals()] if has_denormals else []
    trials = [attempt(change, subject, run, plain_s, timer) for change in tried]
    calls |= {trial.change.name: trial.call for trial in trials if trial.call}
    watch.forget()
    return trials, measure(calls, Policy(STEP_PRECISION, options.step_s), PLAIN, timer, options.seed)


def _eager(run: Callable[[Subject], object], subject: Subject) -> None:
    with uncompiled():
        run(subject)


def _step(
    subject: Subject, device: str, run: Callable[[Subject], object], reason: str, compiled: bool, options: Options,
    samples: dict[str, Samples], rows: list[LayerRow],
) -> Step:  # fmt: skip
    plain = median_interval(samples[PLAIN].seconds)
    eager = median_interval(samples[EAGER].seconds) if compiled else plain
    distortion = speedup(samples[WATCHED], samples[EAGER if compiled else PLAIN]) or Interval(1.0, None, None)
    convolutions_s = sum(row.step_s for row in rows)
    return Step(
        model=subject.name, device=device, passes="forward" if run is forward else "forward and backward",
        forward_only_because=reason, compiled=compiled, threads=options.threads, median_s=plain.value,
        ci_low_s=plain.low, ci_high_s=plain.high, eager_s=eager.value, samples=len(samples[PLAIN].seconds),
        watched_s=median_interval(samples[WATCHED].seconds).value, distortion=distortion.value,
        distortion_ci_low=distortion.low, distortion_ci_high=distortion.high, convolutions_s=convolutions_s,
        convolutions_share=convolutions_s / eager.value,
    )  # fmt: skip
