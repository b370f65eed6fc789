"""The study of whole trainings, on invented ones: it goes on, stops in time, and its tables say what was found."""

from types import SimpleNamespace

import pytest

from benchmarks import agreement_study as study
from convbench.journal import Log
from convbench.machine.environment import detect
from convbench.train.result import COLUMNS, Saving, TrainRow
from convbench.train.settings import Settings, Variant

METRICS = {  # ours and torch's at each seed; the separable ones lose 0.4 points to them on classify, 0.6 on segment
    "classify": [(0.987, 0.988), (0.989, 0.987), (0.983, 0.985)],
    "segment": [(0.92, 0.93), (0.921, 0.931), (0.919, 0.929)],
}


def row(model, form, implementation, metric, **given):
    text = {"variant": Variant(model, form, implementation).name, "model": model, "form": form,
            "implementation": implementation, "status": "ok", "status_detail": ""}  # fmt: skip
    numbers = {"params": 10, "fallbacks": 0, "steps": 600, "step_s": 0.1, "target_s": 40.0, "metric": metric}
    return TrainRow(**dict.fromkeys(COLUMNS) | text | numbers | given)


def invented(task, seed):
    """One training, without training."""
    model, lost = ("classifier", 0.004) if task == "classify" else ("unet", 0.006)
    ours, torchs = METRICS[task][seed]
    compared = {"loss_difference": 2e-5 * (seed + 1), "step_speedup": 1.1 + seed / 10}
    own = [("numba.auto", ours, compared), (study.REFERENCE, torchs, {})]
    own += [(study.CHANNELS_LAST, torchs, {"loss_difference": 7e-6, "step_speedup": 1.0})] if seed == 0 else []
    rows = [
        row(model, form, name, metric - (lost if form == "separable" else 0), **more)
        for form in ("dense", "separable")
        for name, metric, more in own
    ]
    savings = [
        Saving(model=model, implementation=name, params=1.5, macs=6.2, step=1.4, step_low=1.3, step_high=1.5,
               inference=1.6, dense_metric=metric, separable_metric=metric - lost)
        for name, metric, _ in own
    ]  # fmt: skip
    settings = Settings(
        task=task, data="invented", variants=tuple(Variant(r.model, r.form, r.implementation) for r in rows), epochs=10,
        batch=64, loss="cross-entropy", optimizer="adam", learning_rate=0.1, momentum=0.9, weight_decay=0.0,
        schedule="constant", augment=(), seed=seed, threads=2, device="cpu", target=0.985,
    )  # fmt: skip
    return study.Training("0123456789", task, seed, 120.0, study.Output(settings, rows, savings, []))


@pytest.fixture
def log(monkeypatch, tmp_path):
    monkeypatch.setattr(study, "training", invented)
    log = Log(tmp_path / "out" / "study.jsonl", study.Plan, study.Training, "study")
    log.start(study.Plan(detect(with_torch=False).machine))
    return log


def cells(log, start):
    """Of the lines of the report's tables that start so."""
    lines = log.path.with_name("README.md").read_text().splitlines()
    return [[c.strip() for c in line.strip("|").split("|")] for line in lines if line.startswith(start)]


def test_seed_0_of_everything_comes_first_and_more_seeds_go_on(log):
    assert study.study(log, 1, 60)
    assert [(t.task, t.seed) for t in log.read()[1]] == [("classify", 0), ("segment", 0)]
    assert cells(log, "| classify | classifier dense, numba.auto")[1][4:6] == ["-0.10", "one seed cannot tell"]
    assert study.study(log, 3, 60)
    assert [t.seed for t in log.read()[1]] == [0, 0, 1, 1, 2, 2]


def test_no_training_is_begun_that_would_end_too_late(log):
    assert not study.study(log, 3, 1)  # one takes two minutes
    assert len(log.read()[1]) == 1


def test_an_interrupt_loses_the_training_that_runs(log, monkeypatch):
    def interrupted(task, seed):
        if task == "segment":
            raise KeyboardInterrupt
        return invented(task, seed)

    monkeypatch.setattr(study, "training", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.study(log, 3, 60)
    assert len(log.read()[1]) == 1 and cells(log, "| classify")


def test_what_the_tables_say(log):
    study.study(log, 3, 60)
    target, same = cells(log, "| classify | classifier dense, numba.auto")
    assert target[2:] == ["98.63%", "98.30%", "98.5%", "40 s", "60 s", "180 s", "2 of 3"]
    assert same[2:4] == ["98.63%", "98.67%"]
    assert same[4:6] == ["-0.03 (-0.55 to +0.48)", "yes"]
    assert same[6:] == ["6.0e-05", "yes", "1.20x (1.10 to 1.30)"]
    assert cells(log, "| segment | unet dense, numba.auto")[1][4:6] == ["-1.00 (-1.00 to -1.00)", "no"]
    itself = cells(log, "| classify | classifier dense, torch.channels_last")[1]
    assert itself[8] == "1.00x" and itself[4:8] == ["+0.00", "one seed cannot tell", "7.0e-06", ""]
    (small, *_), (large, *_) = (cells(log, f"| {start},") for start in ("classify | classifier", "segment | unet"))
    assert small[2:6] == ["1.50x", "6.2x", "1.40x (1.40 to 1.40)", "1.60x (1.60 to 1.60)"]
    assert (small[-1], large[-1]) == ("yes", "no")


def test_one_seed_tells_no_noise():
    assert study.with_interval([0.01]) == ("+1.00", None)
    assert study.with_interval([0.0, 0.0]) == ("+0.00 (+0.00 to +0.00)", True)


def test_a_training_that_fails_ends_the_study_with_its_last_line(monkeypatch):
    monkeypatch.setattr(study, "run", lambda words: (2, "", "seen\nthis needs mlxtend"))
    with pytest.raises(SystemExit, match=r"train classify --model classifier .*exit code 2: this needs mlxtend"):
        study.training("classify", 0)


def test_the_first_seed_is_torch_against_itself_too(monkeypatch):
    asked = []
    monkeypatch.setattr(study, "run", lambda words: asked.append(words) or (2, "", ""))
    for seed in (0, 1):
        with pytest.raises(SystemExit):
            study.training("segment", seed)
    assert [f"--impl={study.CHANNELS_LAST}" in words for words in asked] == [True, False]


def test_losses_too_far_apart_are_no_rounding():
    training = invented("segment", 0)
    for each in training.output.rows:
        each.loss_difference = 1e-3 if each.implementation == "numba.auto" else 9e-5
    assert study.agreement_lines("segment", [training.output])[0][6:8] == ["1.0e-03", "no"]


def test_trainings_of_another_machine_are_not_added(log, monkeypatch):
    monkeypatch.setattr(study, "detect", lambda with_torch: SimpleNamespace(machine="other"))
    with pytest.raises(SystemExit, match="and this is other: use another --out"):
        study.study(log, 3, 60)
