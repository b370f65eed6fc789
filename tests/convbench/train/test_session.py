"""Sessions: kernels against torch to rounding, resuming bit for bit, failures that leave the others and the weights."""

import os
import zipfile

import msgspec
import pytest
import torch

from convbench.errors import InputError, OutputError
from convbench.train import data as data_
from convbench.train import session as session_
from convbench.train.data import Data, Split
from convbench.train.result import History, row_of, savings
from convbench.train.session import CHECKPOINT, Session, load
from convbench.train.settings import Settings, Variant

DENSE, SEPARABLE = (Variant("classifier", form, "torch.aten") for form in ("dense", "separable"))
OURS = Variant("classifier", "dense", "numba.auto")


class Silent:
    def __init__(self):
        self.steps, self.epochs = [], []

    def step(self, done, total, histories):
        self.steps.append(done)

    def epoch(self, number, histories):
        self.epochs.append(number)


@pytest.fixture(scope="module")
def digits():
    whole = data_.load("digits", "classify")
    few = Split(whole.train.images[:320], whole.train.target[:320])
    return Data("digits", "classify", whole.classes, few, whole.test, whole.split)


def settings(*variants, **changed):
    given = {
        "task": "classify", "data": "digits", "variants": variants or (DENSE,), "epochs": 2, "batch": 64,
        "loss": "cross-entropy", "optimizer": "adam", "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 0.0,
        "schedule": "onecycle", "augment": ("shift", "noise"), "seed": 3, "threads": 2, "device": "cpu", "target": 0.1,
        "arguments": {"width": 4},
    }  # fmt: skip
    return Settings(**given | changed)


def weights(session):
    return [trainer.plain.state_dict() for trainer in session.trainers]


def assert_equal(states, others):
    for one, other in zip(states, others, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_our_kernels_give_torchs_loss_curve_to_rounding(digits):
    session = Session(settings(OURS, DENSE, epochs=4), digits)
    assert session.run(Silent(), None)
    ours, torchs = session.histories
    assert len(ours.losses) == 20
    assert ours.losses == pytest.approx(torchs.losses, rel=2e-3)
    assert ours.losses != torchs.losses  # they are different kernels
    assert session.trainers[0].kernels.report.rows and not session.trainers[0].kernels.report.fallbacks
    row = row_of(ours, session.histories, session.settings, 1)
    assert row.loss_difference == max(abs(a - b) / b for a, b in zip(ours.losses, torchs.losses, strict=True))


WITH_DROPOUT = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout(0.4), nn.Conv2d(4, 8, 3, 2), nn.Flatten(), nn.Linear(32, 10))
"""


@pytest.mark.parametrize("model", ["classifier", "own"])
def test_dropout_is_the_same_in_every_memory_format(model, digits, tmp_path):
    (tmp_path / "dropping.py").write_text(WITH_DROPOUT)
    spec, form = (f"{tmp_path}/dropping.py:make", "as_is") if model == "own" else (model, "dense")
    names = ("torch.aten", "torch.channels_last")
    session = Session(settings(*(Variant(spec, form, name) for name in names), epochs=1), digits)
    assert session.run(Silent(), None)
    one, other = (history.losses for history in session.histories)
    assert len(one) == 5 and other == pytest.approx(one, rel=1e-3)


def test_lockstep_and_what_comes_out(digits):
    session, progress = Session(settings(DENSE, SEPARABLE), digits), Silent()
    assert session.run(progress, None)
    assert progress.steps == list(range(1, 11)) and progress.epochs == [1, 2]
    for history in session.histories:
        assert len(history.losses) == len(history.forward_s) == len(history.backward_s) == 10
        assert [e.step for e in history.evaluations] == [5, 10]
        assert sum(map(sum, history.evaluations[-1].confusion)) == len(digits.test.images)
        assert len(history.inference_s) == 2 * (len(digits.test.images) // 64)
        assert history.convolution_s > 0
    dense, separable = session.histories
    assert dense.params > separable.params and dense.macs > separable.macs
    (saving,) = savings(session.histories)
    assert saving.params == dense.params / separable.params
    assert saving.macs == dense.macs / separable.macs
    row = row_of(dense, session.histories, session.settings, 1)
    assert row.steps == 10 and row.step_speedup is None
    assert row.step_s == pytest.approx(row.data_s + row.forward_s + row.backward_s + row.optimizer_s, rel=1)


def test_held_memory_is_weights_gradients_and_at_least_every_kept_activation(digits):
    session = Session(settings(), digits)
    session.run(Silent(), None)
    (history,) = session.histories
    n, width = 64, 4
    convolved = 4 * n * (2 * width * 64 + 2 * 2 * width * 16)  # inputs of normalisation: two blocks of two layers
    least = 4 * 2 * history.params + convolved
    assert least < history.held_bytes < 6 * least


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
def test_resuming_in_the_middle_of_an_epoch_is_bit_for_bit(optimizer, schedule, digits, tmp_path):
    wanted = settings(optimizer=optimizer, schedule=schedule, learning_rate=0.003, weight_decay=0.01)
    whole = Session(wanted, digits)
    assert whole.run(Silent(), None)
    stopped, seen = Session(wanted, digits), Silent()
    assert not stopped.run(seen, tmp_path, lambda: seen.steps[-1] == 7)
    found, state = load(tmp_path)
    assert found == wanted
    resumed = Session(found, digits)
    resumed.restore(state)
    assert resumed.run(Silent(), tmp_path)
    assert_equal(weights(resumed), weights(whole))
    assert resumed.histories[0].losses == whole.histories[0].losses
    assert [e.confusion for e in resumed.histories[0].evaluations] == [
        e.confusion for e in whole.histories[0].evaluations
    ]


def test_looking_into_a_step_changes_nothing(digits, monkeypatch):
    looked = Session(settings(), digits)
    looked.run(Silent(), None)
    monkeypatch.setattr(session_, "look_into", lambda *_: None)
    plain = Session(settings(), digits)
    plain.run(Silent(), None)
    assert_equal(weights(looked), weights(plain))


def test_a_loss_that_is_no_number_changes_no_weight_and_stops_only_that_variant(digits):
    session = Session(settings(DENSE, SEPARABLE), digits)
    session._step()
    broken, other = session.trainers
    before = {name: value.clone() for name, value in broken.plain.named_parameters()}
    broken.loss = lambda images, target: torch.tensor(float("nan"), requires_grad=True)
    assert session.run(Silent(), None)
    assert broken.history.status == "diverged" and "--learning-rate" in broken.history.detail
    assert all(torch.equal(before[name], value) for name, value in broken.plain.named_parameters())
    assert other.history.status == "ok" and len(other.history.losses) == 10
    assert len(broken.history.losses) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (ValueError("odd"), "error"),
    ],
)
def test_an_error_in_a_step_is_that_variants_alone(error, status, digits):
    session = Session(settings(DENSE, SEPARABLE), digits)

    def fail(*_):
        raise error

    session.trainers[0].loss = fail
    assert session.run(Silent(), None)
    assert [h.status for h in session.histories] == [status, "ok"]
    rows = [row_of(h, session.histories, session.settings, 1) for h in session.histories]
    assert rows[0].step_s is None and rows[0].metric is None and rows[1].metric is not None


def test_strict_stops_instead_of_falling_back(digits):
    variants = (Variant("classifier", "separable", "numba.winograd"), SEPARABLE)
    session = Session(settings(*variants, strict=True), digits)
    session.run(Silent(), None)
    assert session.histories[0].status == "error"
    assert "winograd" in session.histories[0].detail or "3x3" in session.histories[0].detail


def test_a_checkpoint_is_data_and_a_foreign_file_is_refused(digits, tmp_path):
    session = Session(settings(), digits)
    session._step()
    session.save(tmp_path)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert state["done"] == 1 and msgspec.convert(state["histories"][0], History).variant == DENSE
    for text in (b"", b"PK\x03\x04", b"\x80\x04cos\nsystem\n"):
        (tmp_path / CHECKPOINT).write_bytes(text)
        with pytest.raises(InputError, match="no checkpoint of convbench train"):
            load(tmp_path)
    with pytest.raises(InputError, match="--resume takes the folder"):
        load(tmp_path / "missing")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("settings", {"batch": 0}), ("settings", {"learning_rate": -1.0}), ("settings", {"momentum": 2.0}),
        ("settings", {"seed": -1}), ("settings", {"threads": 0}), ("settings", None),
        ("done", -1), ("done", 10**9), ("done", "1"), ("variants", []),
        ("variants", [{"model": {}, "optimizer": {}, "schedule": {}}]), ("variants", None), ("histories", [{}]),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_one_line(part, value, digits, tmp_path):
    session = Session(settings(), digits)
    session.save(tmp_path)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    state[part] = state[part] | value if isinstance(value, dict) else value
    torch.save(state, tmp_path / CHECKPOINT)
    with pytest.raises(InputError, match="start a new training") as caught:
        Session(settings(), digits).restore(load(tmp_path)[1])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changed",
    [{"variant": {"model": "unet", "form": "dense", "implementation": "torch.aten"}}, {"losses": [0.1, 0.2]},
     {"params": 0}, {"forward_s": [-1.0]}, {"evaluations": [{"step": 1, "metric": 0.5, "confusion": [[1, 2], [3]]}]}],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
def test_a_history_that_is_not_of_this_training_is_refused(changed, digits, tmp_path):
    session = Session(settings(), digits)
    session._step()
    session.save(tmp_path)
    state = load(tmp_path)[1]
    Session(settings(), digits).restore(state)
    state["histories"][0] |= changed
    with pytest.raises(InputError, match="does not fit its own settings"):
        Session(settings(), digits).restore(state)


def test_a_packed_checkpoint_is_refused_before_it_is_unpacked(digits, tmp_path):
    path = tmp_path / CHECKPOINT
    torch.save({"settings": {}, "weights": torch.zeros(10**7)}, path)
    with zipfile.ZipFile(path) as whole:
        parts = {entry.filename: whole.read(entry) for entry in whole.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
    assert path.stat().st_size < 10**6
    with pytest.raises(InputError, match="larger inside than outside"):
        load(tmp_path)


def test_a_pipe_in_place_of_a_checkpoint_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / CHECKPOINT)
    with pytest.raises(InputError, match="is no regular file"):
        load(tmp_path)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(digits, tmp_path, monkeypatch):
    session = Session(settings(), digits)
    session.save(tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    session._step()
    with pytest.raises(OutputError, match="No space left on device"):
        session.save(tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_equal_settings_equal_weights_and_seeds_matter(digits):
    runs = [Session(settings(seed=seed), digits) for seed in (1, 1, 2)]
    for session in runs:
        session.run(Silent(), None)
    assert_equal(weights(runs[0]), weights(runs[1]))
    assert runs[0].histories[0].losses != runs[2].histories[0].losses


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"batch": 1000}, "only 320 training images"),
        ({"variants": (Variant("classifier", "dense", "torch.aten"),), "arguments": {"classes": 7}}, "10 classes"),
        ({"variants": (Variant("unet", "dense", "torch.aten"),)}, "fails on images of 1x8x8"),
    ],
)
def test_what_does_not_fit_the_data(changed, expected, digits):
    with pytest.raises(InputError, match=expected):
        Session(settings(**changed), digits)


def test_segmentation_trains_on_masks():
    whole = data_.load("brain", "segment")
    few = Split(whole.train.images[:8], whole.train.target[:8])
    small = Data("brain", "segment", whole.classes, few, few, "the same")
    variants = tuple(Variant(model, "separable", "torch.aten") for model in ("unet", "deeplab"))
    wanted = settings(*variants, task="segment", batch=4, loss="both", epochs=2, augment=("flip",), learning_rate=0.01)
    session = Session(wanted, small)
    assert session.run(Silent(), None)
    for history in session.histories:
        assert history.losses[-1] < history.losses[0]
        assert sum(map(sum, history.evaluations[-1].confusion)) == few.target.numel()
