"""The profile of one model: look, measure alone, try changes, and time the step with and without watching.

An interrupt ends it early with all that is there; what is missing then is named.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from convbench import __version__
from convbench.machine.noise import snapshot, warnings
from convbench.measure import Interval, Policy, Sampler, Samples, sample, series_interval, speedup
from convbench.profile import extras, layers
from convbench.profile.advice import advise
from convbench.profile.cold import Cold, key, measure_cold
from convbench.profile.counts import counts
from convbench.profile.facts import facts_of
from convbench.profile.look import Seen, inspect
from convbench.profile.model import LayerRow, Profile, Step
from convbench.profile.options import Options
from convbench.profile.profiler import Profiled, profiled
from convbench.profile.variants import Trial, attempt, changes, denormals_gone
from convbench.profile.watch import (
    Event,
    Layer,
    Watch,
    compiled_frames,
    forward,
    training,
    warm_timer,
    why_no_backward,
)
from convbench.records import spec_of
from convbench.results import Record
from convbench.run import Plan, Progress, begin, execute
from convbench.suites.traced import Subject, no_convolution, uncompiled

PLAIN, EAGER, WATCHED = "the step", "the step, eager", "the step, watched"
STEP_PRECISION = 0.01
# Rounds, timed before anything else, for changes to be held against, and for a profile that is interrupted.
FIRST_STEPS = 7


Live = Callable[[Plan], AbstractContextManager[Progress]]
Say = Callable[[str], object]


@dataclass(frozen=True)
class Outcome:
    """The profile, the events of the last watched step, what torch.profiler saw of a few, and what ended it early."""

    found: Profile
    events: list[Event]
    profiled: Profiled
    error: Exception | None = None


def profile(subject: Subject, device: str, options: Options, live: Live, say: Say) -> Outcome:
    """Profile a model.

    live shows the progress of what is measured alone, say one line about what comes next.
    Raises InputError for a model that fails, or in which no two-dimensional convolution runs.
    """
    before, frames = snapshot(), compiled_frames()
    forward(subject)
    compiled = compiled_frames() > frames
    reason = "" if options.passes == ("forward",) else why_no_backward(subject)
    run = training if options.passes != ("forward",) and not reason else forward
    watch = Watch(subject, run, device)
    watch()
    if not any(isinstance(event.what, Layer) for event in watch.steps[-1]):
        raise no_convolution(subject)
    watch()  # the first one was cold
    plans = _plans(watch.steps[-1], device, options)
    record = begin(plans[0], {"threads": options.threads}, quick=True, command="profile")
    work = _Work(subject, device, options, live, say, run, compiled, watch, inspect(subject), record)
    work.finish(plans)
    found, events = work.profile(reason)
    found.warnings = warnings(before, snapshot())
    found.advice = advise(found)
    return Outcome(found, events, work.profiled, work.error)


def _plans(events: list[Event], device: str, options: Options) -> list[Plan]:
    """What to run alone: the layers that matter, the longest first, on everything, and the rest by torch alone."""
    main, rest = (layers.cases((each for each in part if each.pass_ in options.passes), device)
                  for part in layers.longest_first(events))  # fmt: skip
    rest = [case for case in rest if not any(layers.same(case, other) for other in main)]
    plans = [options.plan(options.covered(main), options.implementations, options.alone_s)]
    if options.torchs and rest:
        plans.append(options.plan(options.covered(rest), options.torchs, options.alone_s / 4))
    return plans


@dataclass
class _Work:
    """A profile while it is measured, stage by stage."""

    subject: Subject
    device: str
    options: Options
    live: Live
    say: Say
    run: Callable[[Subject], object]
    compiled: bool
    watch: Watch
    looked: list[Seen]
    record: Record
    samples: dict[str, Samples] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    call_s: float | None = None
    cold: Cold = field(default_factory=dict)
    profiled: Profiled = field(default_factory=Profiled)
    missing: list[str] = field(default_factory=list)
    error: Exception | None = None

    def finish(self, plans: list[Plan]) -> None:
        """All stages, or those before an interrupt or an error."""
        stages: dict[str, Callable[[], object]] = {
            "the time of the step": self._first_steps,
            "layers alone": lambda: self._alone(plans),
            "layers alone with cold weights": self._cold,
            "other shapes and types of the layers": self._more,
            "changes to the whole step": self._steps,
            "torch.profiler": self._profiler,
        }
        try:
            for stage in stages.values():
                stage()
                self.missing.append("")
        except (KeyboardInterrupt, Exception) as error:
            self.missing = list(stages)[len(self.missing) :]
            self.error = error if isinstance(error, Exception) else None
        else:
            self.missing = []

    def _first_steps(self) -> None:
        first, timer = {name: Samples() for name in self._calls()}, warm_timer(self.device)
        for number in range(FIRST_STEPS):
            for name, call in self._calls().items():
                first[name].seconds.append(timer(call, 1))
                first[name].rounds.append(number)
        self.samples = first

    def _alone(self, plans: list[Plan]) -> None:
        for plan in plans:
            with self.live(plan) as progress:
                execute(plan, self.record, progress, worker=self.options.worker)
        self.call_s = extras.call_seconds(self.device)

    def _cold(self) -> None:
        self.say("Timing layers with cold weights ...")
        self.cold = measure_cold(
            self._rows(), self.options.implementations, warm_timer(self.device), self.record.environment
        )

    def _more(self) -> None:
        """What the advice needs beside the model's own layers."""
        own = {(spec_of(row), row.pass_, row.dtype) for row in self.record.rows}
        rows, all_ = self._rows(), self.options.implementations
        for cases, implementations in (
            (extras.pair_cases(rows), all_),
            (extras.neighbour_cases(rows), self.options.torchs),
            (extras.lower_cases(rows), all_),
        ):
            new = [case for case in cases if (case.spec, case.pass_, case.dtype) not in own]
            if new := [case for case in new if not all(i.supports(case) for i in implementations)]:
                plan = self.options.plan(new, implementations, self.options.alone_s / 4)
                with self.live(plan) as progress:
                    execute(plan, self.record, progress, worker=self.options.worker)

    def _steps(self) -> None:
        """The step as it is, watched, and under every change that runs, in interleaved rounds."""
        self.say("Timing the step, as it is and under changes ...")
        rows, plain_s = self._rows(), series_interval(self.samples[PLAIN].seconds).value
        tried = changes(rows, self.device, self.options.threads, self.options.usual_threads)
        tried += denormals_gone(self.looked, self.device)
        for change in tried:
            self.trials.append(attempt(change, self.subject, self.run, plain_s, warm_timer(self.device)))
        calls = self._calls() | {trial.change.name: trial.call for trial in self.trials if trial.call}
        policy = Policy(STEP_PRECISION, self.options.step_s)
        sampler = Sampler(calls, policy, warm_timer(self.device), self.options.seed)
        try:
            sample(sampler, policy, PLAIN)
        finally:
            self.samples |= {name: samples for name, samples in sampler.samples.items() if samples.seconds}

    def _profiler(self) -> None:
        self.say("Asking torch.profiler ...")
        self.profiled = profiled(self._eagerly, self.device)

    def _calls(self) -> dict[str, Callable[[], object]]:
        calls: dict[str, Callable[[], object]] = {PLAIN: lambda: self.run(self.subject), WATCHED: self.watch}
        return calls | ({EAGER: self._eagerly} if self.compiled else {})

    def _eagerly(self) -> None:
        with uncompiled():
            self.run(self.subject)

    # What came of it ------------------------------------------------------------------------------

    @property
    def _unwatched(self) -> Samples:
        """Of the step whose layers are seen: eager."""
        return self.samples[EAGER if self.compiled else PLAIN]

    def _watched(self) -> list[list[Event]]:
        watched = self.samples[WATCHED]
        return self.watch.steps[-len(watched.seconds) * watched.calls_per_sample :]

    def _rows(self) -> list[LayerRow]:
        rows = layers.rows(self._watched(), series_interval(self._unwatched.seconds).value, self.device,
                           self.record.peaks, self.call_s, self.record.rows)  # fmt: skip
        layers.add_fields(rows, self.looked)
        for row in rows:
            if seconds := self.cold.get(key(row)):
                row.cold_s, row.cold_low_s, row.cold_high_s = seconds
        return rows

    def profile(self, reason: str) -> tuple[Profile, list[Event]]:
        """The profile but for its advice, and the last watched step. KeyboardInterrupt where no step was timed."""
        if WATCHED not in self.samples:
            raise self.error or KeyboardInterrupt
        record, rows, steps = self.record, self._rows(), self._watched()
        step = self._step(reason, rows)
        step.operators = layers.operators(steps, step.eager_s)
        self.profiled.add_to(step)
        found = Profile(
            run_id=record.run_id, machine=record.machine, started=record.started, convbench_version=__version__,
            environment=record.environment, settings=record.settings, step=step, missing=self.missing,
            totals=layers.totals(rows), counts=counts(rows, self.subject, self.run),
            variants=[trial.outcome(self.samples, PLAIN) for trial in self.trials],
            separable=extras.separables(rows, record), cliffs=extras.cliffs(rows, record.rows),
            facts=facts_of(self.looked), peaks=record.peaks, isolated=record.rows, rows=rows,
        )  # fmt: skip
        return found, steps[-1]

    def _step(self, reason: str, rows: list[LayerRow]) -> Step:
        plain, eager = (series_interval(each.seconds) for each in (self.samples[PLAIN], self._unwatched))
        distortion = speedup(self.samples[WATCHED], self._unwatched) or Interval(1.0, None, None)
        convolutions_s = sum(row.step_s for row in rows)
        return Step(
            model=self.subject.name, device=self.device, forward_only_because=reason, compiled=self.compiled,
            passes="forward" if self.run is forward else "forward and backward", threads=self.options.threads,
            median_s=plain.value, ci_low_s=plain.low, ci_high_s=plain.high, eager_s=eager.value,
            samples=len(self.samples[PLAIN].seconds), watched_s=series_interval(self.samples[WATCHED].seconds).value,
            distortion=distortion.value, distortion_ci_low=distortion.low, distortion_ci_high=distortion.high,
            convolutions_s=convolutions_s, convolutions_share=convolutions_s / eager.value, call_s=self.call_s,
        )  # fmt: skip
