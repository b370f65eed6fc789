"""All variants in lockstep: each batch goes to every variant, in random order, so that their times can be compared.

Order of images, augmentation and dropout follow from the seed and the step alone. A checkpoint holds every
variant and its history; going on from it gives the weights that an uninterrupted session gives, bit for bit.
"""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Protocol

import msgspec
import torch
from msgspec import Meta

from convbench.errors import InputError
from convbench.journal import write_atomically
from convbench.train import metrics
from convbench.train.augment import augmented
from convbench.train.data import Data, Split
from convbench.train.inside import look_into
from convbench.train.parallel import Group, shared
from convbench.train.result import PHASES, PROFILED, SCHEMA_VERSION, History
from convbench.train.settings import Settings
from convbench.train.trainer import Trainer
from convbench.untrusted import check_kind, one_line

Tensor = torch.Tensor

CHECKPOINT = "checkpoint.pt"
ALONE_STEPS = 4  # of one process, before several begin; the first is not counted


class Progress(Protocol):
    """Told of every step and every evaluation."""

    def step(self, done: int, total: int, histories: list[History]) -> None: ...

    def epoch(self, number: int, histories: list[History]) -> None: ...


class Session:
    """Builds all variants; ``run`` trains what is left. Raises InputError for settings that do not fit the data."""

    def __init__(self, settings: Settings, data: Data, group: Group | None = None) -> None:
        self.settings, self.data, self.group = settings, data, group or Group()
        shared(settings.batch, self.group)
        self.steps_per_epoch = len(data.train.images) // settings.batch
        if not self.steps_per_epoch:
            raise InputError(
                f"--batch {settings.batch}: there are only {len(data.train.images)} training images; lower it"
            )
        self.total = self.steps_per_epoch * settings.epochs
        self.trainers = [Trainer(v, settings, data, self.total, self.group) for v in settings.variants]
        self.done = 0

    @property
    def histories(self) -> list[History]:
        return [trainer.history for trainer in self.trainers]

    def run(self, progress: Progress, folder: Path | None, asked_to_stop: Callable[[], bool] = lambda: False) -> bool:
        """Train to the end, or until asked to stop: then the checkpoint holds everything. True at the end."""
        if self.group.world > 1 and not self.done:
            self._alone()
        while self.done < self.total and any(t.going for t in self.trainers):
            self._step(look=self.done == PROFILED)
            progress.step(self.done, self.total, self.histories)
            epoch, rest = divmod(self.done, self.steps_per_epoch)
            if not rest:
                self._evaluate()
                progress.epoch(epoch, self.histories)
            stop = bool(self.group.total(torch.tensor(int(asked_to_stop()))))  # all processes, or none
            if stop or not rest:
                self.save(folder)
            if stop:
                return False
        return True

    def _step(self, look: bool = False) -> None:
        begun = perf_counter()
        images, target = self.batch(self.done)
        data_s = perf_counter() - begun
        seed = _seed(self.settings.seed, "step", self.done)
        for trainer in self._shuffled(self.done):
            if look:
                look_into(trainer, images, target, seed)
            trainer.step(images, target, data_s, seed)
        self.done += 1

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """This process's share of a step's images and targets, augmented as a whole before it is shared."""
        s, split = self.settings, self.data.train
        epoch, place = divmod(step, self.steps_per_epoch)
        order = torch.randperm(len(split.images), generator=_generator(s.seed, "order", epoch))
        chosen = order[place * s.batch : (place + 1) * s.batch]
        images, target = split.images[chosen], split.target[chosen]
        masks = target if self.data.task == "segment" else None
        images, masks = augmented(images, masks, s.augment, _generator(s.seed, "augment", step))
        target = target if masks is None else masks
        return self.group.shard(images).to(s.device), self.group.shard(target).to(s.device)

    def _shuffled(self, step: int) -> list[Trainer]:
        going = [trainer for trainer in self.trainers if trainer.going]
        random.Random(_seed(self.settings.seed, "turn", step)).shuffle(going)
        return going

    def _evaluate(self) -> None:
        """Every variant on all test images, batch by batch."""
        test, size = self.data.test, self.settings.batch
        classes = len(self.data.classes)
        matrices = {id(t): torch.zeros(classes, classes, dtype=torch.int64) for t in self.trainers}
        for number, start in enumerate(range(0, len(test.images), size)):
            part = Split(test.images[start : start + size], test.target[start : start + size])
            mine = Split(self.group.shard(part.images), self.group.shard(part.target))
            if not len(mine.images):
                continue
            images = mine.images.to(self.settings.device)
            for trainer in self._shuffled(self.done + number):
                predicted = trainer.predict(images, timed=len(part.images) == size)
                matrices[id(trainer)] += metrics.confusion(predicted.cpu(), mine.target, classes)
        for trainer in self.trainers:
            if trainer.going:
                matrix = self.group.total(matrices[id(trainer)])
                trainer.evaluated(matrix, metric_of(matrix, self.settings.task))

    def _alone(self) -> None:
        """What one process of this machine needs for a step of the same global batch: scaling is held against it."""
        for trainer in self.trainers:
            if self.group.rank == 0:
                alone = Session(msgspec.structs.replace(self.settings, variants=(trainer.variant,)), self.data)
                for _ in range(min(ALONE_STEPS, alone.total)):
                    alone._step()
                steps = torch.tensor([t.sum() for t in _step_seconds(alone.histories[0])][1:] or [float("nan")])
                trainer.history.alone_s = float(steps.median())
            self.group.wait()

    def save(self, folder: Path | None) -> None:
        """Write the checkpoint, whole or not at all. Raises OutputError; what was there before stays."""
        for trainer in self.trainers:
            trainer.note_what_ran()
        if folder is None or self.group.rank:
            return
        state = {
            "schema_version": SCHEMA_VERSION, "settings": msgspec.to_builtins(self.settings), "done": self.done,
            "histories": [msgspec.to_builtins(history) for history in self.histories],
            "variants": [trainer.state() for trainer in self.trainers],
        }  # fmt: skip
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(folder / CHECKPOINT, buffer.getvalue())

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what ``load`` read. Raises InputError where it does not fit its own settings."""
        try:
            for trainer, own, history in zip(self.trainers, state["variants"], state["histories"], strict=True):
                trainer.restore(own, self._fitting(msgspec.convert(history, History), trainer))
            self.done = msgspec.convert(state["done"], Annotated[int, Meta(ge=0, le=self.total)])
        except Exception as error:  # torch's own are of many kinds
            raise InputError(
                f"{CHECKPOINT}: does not fit its own settings: {one_line(repr(error))[:120]}; start a new training"
            ) from None

    def _fitting(self, history: History, trainer: Trainer) -> History:
        """The history, if it can be that variant's on these data. Raises ValueError."""
        steps = {len(values) for values in (history.losses, *(getattr(history, f"{phase}_s") for phase in PHASES))}
        matrices = [found.confusion for found in history.evaluations]
        sides = {*map(len, matrices), *(len(line) for matrix in matrices for line in matrix)}
        if history.variant != trainer.variant or len(steps) > 1 or sides - {len(self.data.classes)}:
            raise ValueError("the history of something else")
        return history


def load(folder: Path) -> tuple[Settings, dict[str, Any]]:
    """(settings, state) of a folder's checkpoint; it is data, no code of it runs. Raises InputError naming the file.

    It takes no more memory than the file: torch packs nothing, so what is packed is not torch's.
    """
    path, advice = folder / CHECKPOINT, "--resume takes the folder of an interrupted training"
    check_kind(path, advice)
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("larger inside than outside")
        state = torch.load(path, weights_only=True, map_location="cpu")
        return msgspec.convert(state["settings"], Settings), state
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {advice}") from None
    except Exception as error:
        raise InputError(
            f"{path}: no checkpoint of convbench train: {' '.join(str(error).split())[:120]}; start a new training"
        ) from None


def metric_of(matrix: Tensor, task: str) -> float:
    """Accuracy to classify, mean IoU to segment."""
    return metrics.accuracy(matrix) if task == "classify" else metrics.mean(metrics.ious(matrix)) or 0.0


def _step_seconds(history: History) -> list[Tensor]:
    parts = [torch.tensor(getattr(history, f"{phase}_s")) for phase in ("data", "forward", "backward", "optimizer")]
    return list(torch.stack(parts, 1)) if history.losses else []


def _seed(seed: int, purpose: str, number: int) -> int:
    return random.Random(f"{seed} {purpose} {number}").getrandbits(62)


def _generator(seed: int, purpose: str, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(seed, purpose, number))
