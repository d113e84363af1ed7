"""A folder of pictures for each class, as fb.resnet.torch reads ImageNet."""

import numpy as np
import pytest
from PIL import Image

from densenet_jax.data import pictures, sources
from densenet_jax.errors import InputError


def gradient(width, height):
    """A smooth picture, of which no two places are alike."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def folder(tmp_path):
    sizes = {"train": [(300, 400), (256, 256), (500, 260)], "val": [(1000, 300)]}
    for part, all_sizes in sizes.items():
        for i, size in enumerate(all_sizes):
            path = tmp_path / part / ("cat", "dog")[i % 2] / f"{i}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            gradient(*size).save(path, "JPEG", quality=95)
    return tmp_path


def test_reads_the_tree(folder, caplog):
    (folder / "train" / "cat" / "notes.txt").write_text("no picture")
    found = sources.load("imagenet", str(folder))
    assert found.train.images.shape == (3, 224, 224, 3) and found.train.images.dtype == np.uint8
    assert found.train.labels.tolist() == [0, 0, 1] and found.test.labels.tolist() == [0]
    assert found.num_classes == 1000 and not found.official
    assert "imagenet is not the official set: it has 3 train, 1 test images" in caplog.text


@pytest.mark.parametrize("size", [(300, 400), (1000, 300), (256, 256), (100, 120)])
def test_the_centre_is_cropped(tmp_path, size):
    path = tmp_path / "picture.png"
    gradient(*size).save(path)
    crop = pictures.central_crop(path).astype(float)
    # Colours tell where the crop's corners are in the picture, from 0 to 1.
    share = [224 / 256 * min(size) / side for side in size]
    for channel, corner in ((0, crop[112, [0, -1], 0]), (1, crop[[0, -1], 112, 1])):
        expected = 255 * np.array([0.5 - share[channel] / 2, 0.5 + share[channel] / 2])
        np.testing.assert_allclose(corner, expected, atol=3)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA"])
def test_pictures_of_other_colour_spaces(tmp_path, mode):
    path = tmp_path / ("picture.png" if mode == "RGBA" else "picture.JPEG")
    gradient(256, 256).convert(mode).save(path)
    assert pictures.central_crop(path).shape == (224, 224, 3)


def test_mistakes(folder, tmp_path):
    def refuses(message, directory=folder):
        with pytest.raises(InputError, match=message) as caught:
            sources.load("imagenet", directory and str(directory))
        assert "\n" not in str(caught.value)

    refuses("imagenet needs data.directory: a folder that holds train and val", None)
    refuses(f"Missing {tmp_path}/nowhere/train/CLASS/", tmp_path / "nowhere")
    damaged = folder / "val" / "cat" / "0.JPEG"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    refuses(f"{damaged} is damaged")
    damaged.write_bytes(whole)
    (folder / "val" / "cow").mkdir()
    damaged.rename(folder / "val" / "cow" / "0.JPEG")
    refuses("val/cow is of a class that .*train has not")


def test_more_pictures_than_memory_holds(folder, monkeypatch):
    monkeypatch.setattr(pictures, "SIDE", 10**6)
    with pytest.raises(InputError, match="4 pictures, which take 12,000 GB"):
        sources.load("imagenet", str(folder))


def test_the_whole_set_is_not_planned_for():
    with pytest.raises(InputError, match=r"set data\.name to synthetic_imagenet"):
        sources.describe("imagenet")
