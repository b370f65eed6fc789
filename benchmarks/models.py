"""What the kernels win in whole models: training steps and inference, every built-in model, dense and separable.

    python benchmarks/models.py [--models ...] [--implementation numba.auto] [--batch 4] [--steps 16] [--threads N]

Each model trains on random images of the size it is for, on the implementation and on torch in lockstep, as in
`convbench train`: the same batches, one right after the other in random order. Prints torch's time / its time, the
median over pairs with its 95% interval, for the whole training step, for inference, and for inference as networks are
deployed: batch norms folded into the convolutions on both sides, ReLUs in place on torch's and inside the kernels on
the other; and geometric means.
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import geometric_mean
from typing import TYPE_CHECKING

from convbench import models
from convbench.cli.common import err, out, table
from convbench.errors import EXIT_OK, EXIT_SOME_CELLS_FAILED
from convbench.machine.noise import snapshot, warnings
from convbench.process import keep_freed_memory, prepare
from convbench.registry import REFERENCE

if TYPE_CHECKING:
    from torch import Tensor, nn

    from convbench.measure import Interval
    from convbench.train.result import TrainRow

CLASSES = 10
SEGMENTS = ("unet", "deeplab")
SAMPLING = {"precision": 0.01, "max_time_s": 8.0, "min_samples": 30}  # of a folded model


class Silent:
    """Progress that nobody sees."""

    def step(self, done, total, histories) -> None: ...
    def epoch(self, number, histories) -> None: ...


def trained(name: str, form: str, options: argparse.Namespace, threads: int) -> tuple[TrainRow, Interval | None]:
    """The row of the implementation after training a model beside torch; its speed-up with batch norms folded."""
    import torch

    from convbench.train.data import Data, Split
    from convbench.train.result import row_of
    from convbench.train.session import Session
    from convbench.train.settings import Settings, Variant

    _, (_, channels, height, width) = models.load(name)
    task = "segment" if name in SEGMENTS else "classify"
    count = options.batch * options.steps
    target = (count, height, width) if task == "segment" else (count,)
    split = Split(torch.rand(count, channels, height, width), torch.randint(0, CLASSES, target))
    data = Data("random", task, tuple(map(str, range(CLASSES))), split, split, "")
    settings = Settings(
        task=task, data="random", variants=tuple(Variant(name, form, i) for i in (options.implementation, REFERENCE)),
        epochs=1, batch=options.batch, loss="cross-entropy", optimizer="sgd", learning_rate=1e-3, momentum=0.9,
        weight_decay=0.0, schedule="constant", augment=(), seed=0, threads=threads, device="cpu", target=1.0,
    )  # fmt: skip
    session = Session(settings, data)
    session.run(Silent(), None)
    row = row_of(session.histories[0], session.histories, settings, 1)
    model, images = session.trainers[0].plain, split.images[: options.batch]
    return row, deployed(model, images, options.implementation) if row.status == "ok" else None


def deployed(model: nn.Module, images: Tensor, implementation: str) -> Interval | None:
    """torch's time / the implementation's of a forward pass with batch norms folded, in rounds in random order."""
    import torch

    from convbench.measure import Policy, measure, speedup
    from convbench.nn import fold, use_kernels

    by_torch, ours, kernels = fold(model), fold(model, implementation), use_kernels(implementation)

    def deploy() -> object:
        with kernels:
            return ours(images)

    with torch.inference_mode():
        taken = measure({REFERENCE: partial(by_torch, images), implementation: deploy}, Policy(**SAMPLING), REFERENCE)
    return speedup(taken[REFERENCE], taken[implementation])


def ratio(value: float | None, low: float | None, high: float | None) -> list[str]:
    return ["" if value is None else f"{value:.2f}x", "" if low is None or high is None else f"{low:.2f}-{high:.2f}"]


def line(row: TrainRow, folded: Interval | None) -> list[str]:
    left = f"{row.fallbacks} passes on torch" if row.fallbacks else row.status
    return [
        f"{row.model} {row.form}", *ratio(row.step_speedup, row.step_speedup_low, row.step_speedup_high),
        *ratio(row.inference_speedup, row.inference_speedup_low, row.inference_speedup_high),
        *ratio(*(folded or (None, None, None))),
        "" if row.convolution_share is None else f"{row.convolution_share:.0%}", row.status_detail or left,
    ]  # fmt: skip


def show(found: list[tuple[TrainRow, Interval | None]], title: str) -> None:
    columns = [("model", "left"), "training step", "interval", "inference", "interval", "folded", "interval",
               "convolutions", ("status", "left")]  # fmt: skip
    table(title, columns, [line(*one) for one in found], "convolutions: their share of forward and backward")
    speedups = {
        "training step": [row.step_speedup for row, _ in found],
        "inference": [row.inference_speedup for row, _ in found],
        "inference, batch norms folded": [folded.value for _, folded in found if folded],
    }
    for what, values in speedups.items():
        if known := [value for value in values if value]:
            out().print(f"{what}: geometric mean {geometric_mean(known):.2f}x, least {min(known):.2f}x")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    with_convolutions = [name for name in models.names() if name != "fully_connected"]
    parser.add_argument("--models", nargs="+", choices=with_convolutions, default=with_convolutions)
    parser.add_argument("--implementation", default="numba.auto")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    threads, _, before = prepare(options.threads), keep_freed_memory(), snapshot()
    rows = []
    for name in options.models:
        for form in ("dense", "separable"):
            err().print(f"{name} {form} ...", style="dim")
            rows.append(trained(name, form, options, threads))
    show(rows, f"{options.implementation}: torch's time / its time, batch {options.batch}, {threads} threads")
    for line_ in warnings(before, snapshot()):
        out().print(line_)
    return EXIT_OK if all(row.status == "ok" for row, _ in rows) else EXIT_SOME_CELLS_FAILED


if __name__ == "__main__":
    raise SystemExit(main())
