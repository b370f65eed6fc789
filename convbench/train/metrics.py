"""Metrics of a confusion matrix: rows are the true class, columns the predicted one; of images, or of pixels."""

from __future__ import annotations

import torch

Tensor = torch.Tensor


def confusion(predicted: Tensor, target: Tensor, classes: int) -> Tensor:
    """(classes, classes) counts of two tensors of class numbers of one shape."""
    return torch.bincount((target * classes + predicted).flatten(), minlength=classes * classes).view(classes, classes)


def accuracy(matrix: Tensor) -> float:
    """Share that is right."""
    return float(matrix.diagonal().sum() / matrix.sum())


def recalls(matrix: Tensor) -> list[float | None]:
    """Per class: the share of it that was found; None for a class that does not occur."""
    return _shares(matrix.diagonal(), matrix.sum(1))


def ious(matrix: Tensor) -> list[float | None]:
    """Per class: intersection over union; None where there is neither."""
    hits = matrix.diagonal()
    return _shares(hits, matrix.sum(0) + matrix.sum(1) - hits)


def dices(matrix: Tensor) -> list[float | None]:
    """Per class: Dice's coefficient, 2 hits / (true + predicted); None where there is neither."""
    return _shares(2 * matrix.diagonal(), matrix.sum(0) + matrix.sum(1))


def mean(values: list[float | None]) -> float | None:
    """Mean over the classes that have a value."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _shares(part: Tensor, whole: Tensor) -> list[float | None]:
    return [float(a / b) if b else None for a, b in zip(part.double(), whole.double(), strict=True)]
