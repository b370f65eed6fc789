"""Test images with what every variant makes of them, as pictures inside the result: PNG in data: addresses."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from convbench.train.data import Data, Split, needed
from convbench.train.trainer import Trainer

MOST = {"classify": 24, "segment": 4}
LARGEST_SIDE = 256  # pixels of a picture
COLOURS = np.array(  # a colour a class, the first is background; Okabe and Ito's, told apart by everyone
    [(0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0)],
    dtype=np.uint8,
)


def examples(trainers: Sequence[Trainer], data: Data) -> list[dict[str, Any]]:
    """For each image chosen: image, truth, and predictions by variant; labels are text, masks are pictures.

    To classify: first the images that some variant gets wrong, in their order. To segment: evenly spaced ones.
    """
    going = [trainer for trainer in trainers if trainer.going]
    if not going:
        return []
    chosen = _chosen(going, data)
    part = Split(data.test.images[chosen], data.test.target[chosen])
    images = part.images.to(going[0].settings.device)
    predicted = {trainer.variant.name: trainer.predict(images, timed=False).cpu() for trainer in going}
    show = _label if data.task == "classify" else _mask
    return [
        {
            "image": _picture(part.images[i]),
            "truth": show(part.target[i], data),
            "predictions": {name: show(y[i], data) for name, y in predicted.items()},
        }
        for i in range(len(chosen))
    ]


def _chosen(trainers: Sequence[Trainer], data: Data) -> list[int]:
    count = min(MOST[data.task], len(data.test.images))
    if data.task == "segment":
        return [int(i) for i in torch.linspace(0, len(data.test.images) - 1, count)]
    wrong = torch.zeros(len(data.test.images), dtype=torch.bool)
    for trainer in trainers:
        for place in torch.arange(len(wrong)).split(trainer.settings.batch):
            images = data.test.images[place].to(trainer.settings.device)
            wrong[place] |= trainer.predict(images, timed=False).cpu() != data.test.target[place]
    return [*wrong.nonzero().flatten().tolist(), *(~wrong).nonzero().flatten().tolist()][:count]


def _label(target: torch.Tensor, data: Data) -> str:
    return data.classes[int(target)]


def _mask(target: torch.Tensor, data: Data) -> str:
    return _png(COLOURS[target.numpy() % len(COLOURS)])


def _picture(image: torch.Tensor) -> str:
    """(C,H,W) in 0 to 1."""
    pixels = (image[:3] * 255).clamp(0, 255).byte().movedim(0, -1).numpy()
    return _png(pixels if pixels.shape[-1] == 3 else pixels[..., 0])


def _png(pixels: np.ndarray) -> str:
    image = needed("PIL.Image", "pillow")
    picture = image.fromarray(np.ascontiguousarray(pixels))
    larger = max(picture.size) / LARGEST_SIDE
    if larger > 1:
        picture = picture.resize([max(1, round(side / larger)) for side in picture.size], image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
