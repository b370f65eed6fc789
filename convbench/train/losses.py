"""Losses on logits: cross-entropy, Dice, their sum; means over images, so that equal shards average to the whole."""

from __future__ import annotations

import torch
from torch.nn import functional as F

Tensor = torch.Tensor


def loss_of(kind: str, logits: Tensor, target: Tensor) -> Tensor:
    """Mean loss. logits (N,classes) with target (N), or (N,classes,H,W) with (N,H,W); target holds class numbers."""
    parts = []
    if kind in ("cross-entropy", "both"):
        parts.append(F.cross_entropy(logits, target))
    if kind in ("dice", "both"):
        parts.append(dice_loss(logits, target))
    return torch.stack(parts).sum()


def dice_loss(logits: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - soft Dice, mean over images and classes; logits (N,classes,H,W), target (N,H,W).

    Milletari, Navab, Ahmadi, V-Net, 3DV 2016, section 3, without the squares; ``smooth`` makes a class that is
    neither there nor predicted count as right.
    """
    p = logits.softmax(1)
    truth = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(p.dtype)
    both = (p * truth).sum((2, 3))
    each = p.sum((2, 3)) + truth.sum((2, 3))
    return 1 - ((2 * both + smooth) / (each + smooth)).mean()
