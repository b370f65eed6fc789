"""Augmentation, losses and metrics: exact where exact is possible, against scikit-learn and by hand elsewhere."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score, recall_score
from torch.nn import functional as F

from convbench.train import metrics
from convbench.train.augment import augmented
from convbench.train.losses import dice_loss, loss_of
from convbench.train.result import paired

KINDS = ("flip", "shift", "crop", "rotate", "noise")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def blocks(n=8, size=32):
    """Images of large constant squares, and the masks that say the same."""
    masks = torch.randint(0, 3, (n, size // 16, size // 16), generator=generator(1))
    masks = masks.repeat_interleave(16, 1).repeat_interleave(16, 2)
    return masks[:, None].float(), masks


@pytest.mark.parametrize("kind", KINDS[:4])
def test_image_and_mask_move_alike(kind):
    images, masks = blocks()
    moved, moved_masks = augmented(images, masks, [kind], generator())
    assert moved.shape == images.shape and moved_masks.dtype == masks.dtype
    assert not torch.equal(moved, images)
    # bilinear and nearest differ along edges only, where the image is between two classes
    whole = moved[:, 0] == moved[:, 0].round()
    assert whole.float().mean() > 0.7
    inside = whole & (F.max_pool2d(moved, 3, 1, 1) == -F.max_pool2d(-moved, 3, 1, 1))[:, 0]
    assert inside.any()
    assert torch.equal(moved[:, 0][inside].long(), moved_masks[inside])


@pytest.mark.parametrize("size", [(96, 48), (40, 80)])
def test_rotation_keeps_right_angles_and_lengths(size):
    """Of pixels, on images that are no squares: what is drawn is the coordinates of pixels."""
    places = torch.stack(torch.meshgrid(*(torch.arange(s, dtype=torch.float) for s in size), indexing="ij"))[None]
    moved = augmented(places, None, ["rotate"], generator(2))[0][0]
    middle = size[0] // 2, size[1] // 2
    down = moved[:, middle[0] + 4, middle[1]] - moved[:, middle[0], middle[1]]
    right = moved[:, middle[0], middle[1] + 4] - moved[:, middle[0], middle[1]]
    assert abs(float(right[0])) > 0.2, "it is turned"
    torch.testing.assert_close(torch.stack([down @ right, down.norm(), right.norm()]), torch.tensor([0.0, 4.0, 4.0]),
                               atol=1e-2, rtol=0)  # fmt: skip


def test_flips_are_exact_and_nothing_is_nothing():
    images, masks = blocks()
    flipped, flipped_masks = augmented(images, masks, ["flip"], generator())
    mirrored = [torch.equal(flipped[i], images[i].flip(-1)) for i in range(len(images))]
    kept = [torch.equal(flipped[i], images[i]) for i in range(len(images))]
    assert all(a or b for a, b in zip(mirrored, kept, strict=True))
    assert torch.equal(flipped[:, 0].long(), flipped_masks)
    same, none = augmented(images, None, [], generator())
    assert same is images and none is None


def test_noise_leaves_masks_and_equal_seeds_give_equal_images():
    images, masks = blocks()
    noisy, unmoved = augmented(images, masks, ["noise"], generator())
    assert torch.equal(unmoved, masks) and not torch.equal(noisy, images)
    twice = [augmented(images, masks, KINDS, generator(3))[0] for _ in range(2)]
    assert torch.equal(*twice)


def test_dice_by_hand():
    # two pixels, two classes, all certain: class 0 has 1 hit of 1 and 2, class 1 none of 1 and 0
    logits = torch.tensor([[[[50.0, 50.0]], [[-50.0, -50.0]]]], dtype=torch.float64)
    target = torch.tensor([[[0, 1]]])
    assert float(dice_loss(logits, target)) == pytest.approx(1 - ((2 + 1) / (3 + 1) + (0 + 1) / (1 + 1)) / 2)
    assert float(dice_loss(logits, torch.zeros(1, 1, 2, dtype=torch.int64))) == pytest.approx(0)


def test_losses_add_up_and_their_gradient_is_right():
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator(), requires_grad=True)
    target = torch.randint(0, 3, (2, 4, 5), generator=generator())
    both = loss_of("both", logits, target).detach()
    parts = logits.detach()
    assert float(both) == pytest.approx(float(F.cross_entropy(parts, target) + dice_loss(parts, target)))
    assert torch.autograd.gradcheck(lambda x: loss_of("both", x, target), logits)
    # the mean over shards is the whole: several processes give what one gives
    shards = [loss_of("both", parts[i : i + 1], target[i : i + 1]) for i in range(2)]
    assert float(sum(shards) / 2) == pytest.approx(float(both))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_metrics_are_scikit_learns(pairs):
    truth, predicted = (torch.tensor(side) for side in zip(*pairs, strict=True))
    matrix = metrics.confusion(predicted, truth, 4)
    labels = list(range(4))
    assert matrix.tolist() == confusion_matrix(truth, predicted, labels=labels).tolist()
    per_class = {"labels": labels, "average": None, "zero_division": 0}
    for ours, theirs in (
        (metrics.ious(matrix), jaccard_score(truth, predicted, **per_class)),
        (metrics.dices(matrix), f1_score(truth, predicted, **per_class)),
        (metrics.recalls(matrix), recall_score(truth, predicted, **per_class)),
    ):
        assert [value or 0 for value in ours] == pytest.approx(list(theirs))
    assert [v is None for v in metrics.recalls(matrix)] == [not (truth == label).any() for label in labels]


def test_the_interval_of_steps_that_drift_is_wider_than_that_of_the_same_in_any_order():
    drifting = np.linspace(1.0, 2.0, 60)
    mixed = np.random.default_rng(0).permutation(drifting)
    wide, usual = (paired(seconds, np.ones(60)) for seconds in (drifting, mixed))
    assert wide.high - wide.low > 1.3 * (usual.high - usual.low)
