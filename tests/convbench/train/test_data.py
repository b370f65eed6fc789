"""Data: nothing of the test images is trained on; the user's folders, and what is wrong with them in one line."""

import io
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from convbench.errors import InputError
from convbench.train import data
from convbench.train.folders import FORMATS, opened


@pytest.mark.parametrize(
    ("name", "task", "size", "classes"),
    [("mnist5k", "classify", (28, 28), 10), ("digits", "classify", (8, 8), 10), ("brain", "segment", (96, 112), 3)],
)
def test_packages_data(name, task, size, classes):
    found = data.load(name, task)
    assert found.size == size and len(found.classes) == classes and found.channels == 1
    for split in (found.train, found.test):
        assert split.images.dtype == torch.float32 and split.target.dtype == torch.int64
        assert float(split.images.min()) >= 0 and float(split.images.max()) <= 1
        assert set(split.target.unique().tolist()) == set(range(classes))
    assert 0.15 < len(found.test.images) / (len(found.train.images) + len(found.test.images)) < 0.3


def test_the_same_split_every_time_and_no_image_on_both_sides():
    once, again = (data.load("digits", "classify") for _ in range(2))
    assert torch.equal(once.train.images, again.train.images)
    train, test = ({x.numpy().tobytes() for x in side.images} for side in (once.train, once.test))
    assert not train & test
    whole = torch.bincount(torch.cat([once.train.target, once.test.target]))
    assert (torch.bincount(once.test.target) - data.TEST_SHARE * whole).abs().max() < 1  # of each class


def test_neighbouring_slices_do_not_lie_on_both_sides():
    train, test = data._slabs(120)
    assert min(abs(a - b) for a in train for b in test) > data.GAP_MM
    assert not set(train) & set(test)


def test_nuclei_are_tiles_of_the_image_that_stardist_ships(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install --no-deps stardist"):
        data.load("nuclei", "segment")
    monkeypatch.undo()
    folder = tmp_path / "stardist" / "data" / "images"
    folder.mkdir(parents=True)
    (tmp_path / "stardist" / "__init__.py").write_text("raise ImportError('never imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    row, column = np.mgrid[:512, :512]
    place = column // 64
    Image.fromarray((20 * place).astype(np.uint16)).save(folder / "img2d.tif")
    Image.fromarray((row % 64 * place).astype(np.uint16)).save(folder / "mask2d.tif")
    found = data.load("nuclei", "segment")
    assert found.classes == ("background", "nucleus") and found.size == (64, 64) and found.channels == 1
    assert (len(found.train.images), len(found.test.images)) == (48, 8)
    seen = [sorted((255 / 20 * side.images).round().int().unique().tolist()) for side in (found.train, found.test)]
    assert seen == [[0, 1, 2, 3, 4, 5], [7]]
    assert (found.test.target[:, 0] == 0).all() and (found.test.target[:, 1:] == 1).all()
    (folder / "img2d.tif").write_bytes(b"II*")
    with pytest.raises(InputError, match=r"img2d\.tif: no readable image"):
        data.load("nuclei", "segment")


@pytest.mark.parametrize(
    ("name", "task", "expected"),
    [
        ("brain", "classify", "is for `convbench train segment`"),
        ("mnist", "classify", "no such folder; expected one of mnist5k"),
    ],
)
def test_wrong_names(name, task, expected):
    with pytest.raises(InputError, match=expected):
        data.load(name, task)


# The user's folders ---------------------------------------------------------------------------------------


def picture(path, size=(20, 18), mode="L", value=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) + ((3,) if mode == "RGB" else ())
    random = np.random.default_rng(len(str(path)))
    pixels = random.integers(0, 255, shape) if value is None else np.resize(value, shape)
    Image.fromarray(pixels.astype(np.uint8), mode).save(path)
    return path


def classes(folder, count=6, mode="L"):
    for name in ("cat", "dog"):
        for number in range(count):
            picture(folder / name / f"{number}.png", mode=mode)
    return folder


def masks(folder, values=(0, 1, 2), count=6, size=(40, 36)):
    for number in range(count):
        picture(folder / "images" / f"{number}.png", size)
        picture(folder / "masks" / f"{number}.png", size, value=values)
    return folder


def test_class_folders_split_or_given(tmp_path):
    found = data.load(str(classes(tmp_path / "a", 10)), "classify")
    assert found.classes == ("cat", "dog")
    assert (len(found.train.images), len(found.test.images)) == (16, 4)
    given = tmp_path / "b"
    classes(given / "train", mode="RGB"), classes(given / "test", 3)
    found = data.load(str(given), "classify")
    assert found.train.images.shape == (12, 3, 18, 20) and found.test.images.shape == (6, 3, 18, 20)


@pytest.mark.parametrize(("values", "count"), [((0, 1, 2), 3), ((0, 255), 2)])
def test_masks_are_class_numbers_or_black_and_white(values, count, tmp_path):
    found = data.load(str(masks(tmp_path, values)), "segment")
    assert found.size == (32, 32) and len(found.classes) == count
    assert set(found.train.target.unique().tolist()) == set(range(count))


def test_sixteen_bits_keep_their_range(tmp_path):
    for name in ("cat", "dog"):
        for number in range(6):
            (tmp_path / name).mkdir(exist_ok=True)
            level = np.full((16, 16), 65535 * (name == "dog") // 2, np.uint16)
            Image.fromarray(level).save(tmp_path / name / f"{number}.png")
    images = data.load(str(tmp_path), "classify").train.images
    assert set(images.unique().tolist()) == {0.0, np.float32(32767 / 65535)}


def floating(folder):
    classes(folder)
    Image.fromarray(np.ones((18, 20), np.float32)).save(folder / "cat" / "0.tiff")
    return "classify", "mode F has no known range"


def laboratory(folder):
    classes(folder)
    Image.new("LAB", (20, 18)).save(folder / "cat" / "0.tiff")
    return "classify", "mode LAB; save it as grey or RGB"


def immense(folder):
    Image.new("1", (2**13, 2**13)).save(classes(folder) / "cat" / "0.png")
    return "classify", "8192x8192 pixels, more than 33,554,432"


def a_program(folder):
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 18\n%%EndComments\nshowpage\n"
    (classes(folder) / "cat" / "0.png").write_text(text)
    return "classify", "cannot identify image file"  # not "Unable to locate Ghostscript"


def one_name_twice(folder):
    masks(folder)
    picture(folder / "images" / "0.jpg", (40, 36))
    return "segment", "0.jpg and 0.png have one name"


def broken_image(folder):
    (classes(folder) / "cat" / "0.png").write_bytes(b"\x89PNG nothing")
    return "classify", "no readable image"


def one_class(folder):
    picture(folder / "cat" / "1.png")
    return "classify", "1 class folders; expected at least two"


def unknown_class(folder):
    classes(folder / "train"), classes(folder / "test")
    picture(folder / "test" / "bird" / "1.png")
    return "classify", "class bird is not in"


def no_test(folder):
    classes(folder / "train")
    return "classify", "has train/ but no test/"


def few(folder):
    classes(folder, 3)
    return "classify", "needs at least 5"


def empty_class(folder):
    classes(folder), (folder / "fox").mkdir()
    return "classify", "no image in it"


def no_masks(folder):
    classes(folder)
    return "segment", "images: no such folder"


def alone(folder):
    (masks(folder) / "masks" / "3.png").unlink()
    return "segment", "3 has an image but no mask"


def other_size(folder):
    picture(masks(folder) / "masks" / "3.png", (10, 36), value=0)
    return "segment", "10x36 pixels, its image has 40x36"


def coloured(folder):
    picture(masks(folder) / "masks" / "3.png", (40, 36), "RGB")
    return "segment", "mode RGB; a mask has one channel"


def black(folder):
    masks(folder, (0,))
    return "segment", "masks hold 1 classes"


@pytest.mark.parametrize(
    "make",
    [
        broken_image,
        floating,
        laboratory,
        immense,
        a_program,
        one_name_twice,
        one_class,
        unknown_class,
        no_test,
        few,
        empty_class,
        no_masks,
        alone,
        other_size,
        coloured,
        black,
    ],
)
def test_what_is_wrong_with_a_folder(make, tmp_path):
    task, expected = make(tmp_path)
    with pytest.raises(InputError, match=expected) as caught:
        data.load(str(tmp_path), task)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_pipe_among_images_is_not_waited_for(tmp_path):
    os.mkfifo(classes(tmp_path) / "cat" / "9.png")
    assert len(data.load(str(tmp_path), "classify").train.images) == 9


def encoded(format_):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(360, dtype=np.uint8).reshape(18, 20)).save(buffer, format_)
    return buffer.getvalue()


IMAGES = {format_: encoded(format_) for format_ in FORMATS}


@settings(max_examples=300)
@given(st.sampled_from(FORMATS), st.floats(0, 1), st.integers(0, 8), st.binary(max_size=8))
def test_damaged_images_are_read_or_refused_in_one_line(tmp_path_factory, format_, place, gone, more):
    whole = IMAGES[format_]
    at = int(place * len(whole))
    path = tmp_path_factory.mktemp("image") / "a.png"
    path.write_bytes(whole[:at] + more + whole[at + gone :])
    try:
        assert opened(path).size[0] > 0
    except InputError as error:
        assert "\n" not in str(error) and str(error).startswith(f"--data {path}: no readable image: ")
