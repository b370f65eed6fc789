"""The user's own images.

classify   DIR/train/CLASS/*.png and DIR/test/CLASS/*.png, or DIR/CLASS/*.png, which is split
segment    DIR/images/* and DIR/masks/* of the same names (without the ending), split at random, or both of them
           below DIR/train and DIR/test; a mask's pixels are class numbers (0, 1, 2, ...), or 0 and 255 for two classes

All images are resized to the size of the first, which is cut to multiples of 16 for segmentation.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convbench.errors import InputError
from convbench.train.data import SPLIT_SEED, TEST_SHARE, Data, Split, labelled, needed
from convbench.train.settings import Task
from convbench.untrusted import one_line

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # whatever a file is called: others start programs
MOST_PIXELS = 2**25  # of one image: a file of a few kilobytes can hold any number
LARGEST_BYTES = 8 * 2**30  # of all images as float32: they are held in memory
MULTIPLE = 16
MOST_CLASSES = 1000


def load(folder: Path, task: Task) -> Data:
    """The folder's images. Raises InputError naming the file or folder that is wrong, and what was expected."""
    return _classes(folder) if task == "classify" else _masks(folder)


# Classification -----------------------------------------------------------------------------------------


def _classes(folder: Path) -> Data:
    train, test = folder / "train", folder / "test"
    if not train.is_dir():
        names = _class_names(folder)
        files, labels = _labelled_files(folder, names)
        counts = np.bincount(labels, minlength=len(names))
        if counts.min() < 5:
            few = names[int(counts.argmin())]
            raise InputError(f"--data {folder / few}: {counts.min()} images; a class needs at least 5 to be split")
        return labelled(folder.name, _read(files, _size(files[0])), labels, names)
    if not test.is_dir():
        raise InputError(f"--data {folder}: has train/ but no test/; add it, or put the class folders into {folder}")
    names = _class_names(train)
    if extra := sorted(set(_class_names(test)) - set(names)):
        raise InputError(f"--data {test}: class {extra[0]} is not in {train}; expected {', '.join(names)}")
    files, labels = _labelled_files(train, names)
    size = _size(files[0])
    sides = [(_read(files, size), labels), *((_read(f, size), y) for f, y in [_labelled_files(test, names)])]
    first, second = (Split(x, torch.tensor(y)) for x, y in sides)
    return Data(folder.name, "classify", names, first, second, "as the folders train and test say")


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(names) < 2:
        raise InputError(
            f"--data {folder}: {len(names)} class folders; expected at least two, such as {folder / 'cat'}/*.png"
        )
    return names


def _labelled_files(folder: Path, names: Sequence[str]) -> tuple[list[Path], list[int]]:
    found = [(file, label) for label, name in enumerate(names) for file in _images(folder / name)]
    return [file for file, _ in found], [label for _, label in found]


# Segmentation -------------------------------------------------------------------------------------------


def _masks(folder: Path) -> Data:
    if (folder / "train").is_dir():
        sides = [_pairs(folder / "train"), _pairs(folder / "test")]
        said = "as the folders train and test say"
    else:
        pairs = _pairs(folder)
        if len(pairs) < 5:
            raise InputError(f"--data {folder}: {len(pairs)} images; at least 5 are needed to split them")
        split = needed("sklearn.model_selection", "scikit-learn").train_test_split
        sides = split(pairs, test_size=TEST_SHARE, random_state=SPLIT_SEED)
        said = f"{len(sides[0])} and {len(sides[1])} images at random"
    height, width, channels = _size(sides[0][0][0])
    size = (max(height // MULTIPLE, 1) * MULTIPLE, max(width // MULTIPLE, 1) * MULTIPLE, channels)
    images = [_read([image for image, _ in side], size) for side in sides]
    masks = [_read_masks(side, size) for side in sides]
    scaled = {255: 1} if max(int(m.max()) for m in masks) == 255 and _levels(masks) == {0, 255} else {}
    masks = [torch.where(m == 255, 1, m) if scaled else m for m in masks]
    count = max(int(m.max()) for m in masks) + 1
    if not 2 <= count <= MOST_CLASSES:
        raise InputError(
            f"--data {folder}: masks hold {count} classes; expected class numbers 0, 1, 2, ... or 0 and 255"
        )
    names = tuple(f"class {n}" for n in range(count))
    first, second = map(Split, images, masks)
    return Data(folder.name, "segment", names, first, second, said)


def _levels(masks: Sequence[torch.Tensor]) -> set[int]:
    return {int(v) for mask in masks for v in mask.unique()}


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    images, masks = (_by_name(_images(folder / part)) for part in ("images", "masks"))
    if alone := sorted(images.keys() ^ masks.keys()):
        has, lacks = ("an image", "mask") if alone[0] in images else ("a mask", "image")
        raise InputError(f"--data {folder}: {alone[0]} has {has} but no {lacks}; masks have the names of their images")
    return [(images[name], masks[name]) for name in sorted(images)]


def _by_name(files: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        if (other := found.setdefault(file.stem, file)) != file:
            raise InputError(f"--data {file.parent}: {other.name} and {file.name} have one name; take one of them out")
    return found


def _read_masks(pairs: Sequence[tuple[Path, Path]], size: tuple[int, int, int]) -> torch.Tensor:
    """(N,H,W) class numbers."""
    masks = []
    for image, mask in pairs:
        with opened(image) as picture, opened(mask) as marked:
            if picture.size != marked.size:
                raise InputError(
                    f"--data {mask}: {_by(marked.size)} pixels, its image has {_by(picture.size)}; they must be equal"
                )
            if marked.mode not in ("1", "L", "P", "I", "I;16"):
                raise InputError(f"--data {mask}: mode {marked.mode}; a mask has one channel of class numbers")
            nearest = needed("PIL.Image", "pillow").Resampling.NEAREST
            masks.append(np.asarray(marked.resize(size[1::-1], nearest), dtype=np.int64))
    return torch.from_numpy(np.stack(masks))


# Files --------------------------------------------------------------------------------------------------


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"--data {folder}: no such folder; segmentation takes images/ and masks/, see the README")
    found = sorted(  # files alone: a pipe would be waited for
        p for p in folder.iterdir() if p.suffix.lower() in ENDINGS and not p.name.startswith(".") and p.is_file()
    )
    if not found:
        raise InputError(f"--data {folder}: no image in it; expected files that end in {', '.join(sorted(ENDINGS))}")
    return found


def _size(file: Path) -> tuple[int, int, int]:
    """(H, W, channels) as the first image says: one channel where it is grey, else three."""
    with opened(file) as picture:
        return picture.height, picture.width, 1 if picture.mode in ("1", "L") or picture.mode.startswith("I;16") else 3


def _read(files: Sequence[Path], size: tuple[int, int, int]) -> torch.Tensor:
    """(N,C,H,W) float32 in 0 to 1."""
    height, width, channels = size
    if 4 * len(files) * height * width * channels > LARGEST_BYTES:
        raise InputError(
            f"--data {files[0].parent}: {len(files)} images of {_by((width, height))} do not fit into "
            f"{LARGEST_BYTES >> 30} GiB; shrink them first"
        )
    pixels = []
    for file in files:
        with opened(file) as picture:
            if picture.mode in ("I", "F"):
                raise InputError(f"--data {file}: mode {picture.mode} has no known range; save it with 8 or 16 bits")
            deep = picture.mode.startswith("I;16")  # Pillow would cut it off at 255
            try:
                shown = picture.convert("F" if deep else "L" if channels == 1 else "RGB").resize((width, height))
            except ValueError:
                raise InputError(f"--data {file}: mode {picture.mode}; save it as grey or RGB") from None
            values = np.asarray(shown, dtype=np.float32) / (65535 if deep else 255)
            pixels.append(np.broadcast_to(values.reshape(height, width, -1), (height, width, channels)))
    return torch.from_numpy(np.stack(pixels)).movedim(-1, 1).contiguous()


def opened(file: Path) -> Any:
    """The image, decoded. Raises InputError for one that is broken or has more than MOST_PIXELS."""
    image = needed("PIL.Image", "pillow")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd inside: it is decoded, or it is not
            picture = image.open(file, formats=FORMATS)
            if picture.width * picture.height > MOST_PIXELS:
                raise ValueError(f"{_by(picture.size)} pixels, more than {MOST_PIXELS:,}")
            picture.load()
    except Exception as error:  # decoders raise whatever damaged bytes lead them to
        raise InputError(f"--data {file}: no readable image: {one_line(str(error))}; mend it or take it out") from None
    return picture


def _by(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
