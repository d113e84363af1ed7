"""Pictures of every kind, and the middle of them."""

import numpy as np
import pytest
from PIL import Image

from densenet_jax.data import pictures
from densenet_jax.errors import InputError


def gradient(width, height):
    """A smooth picture, of which no two places are alike."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("size", [(300, 400), (1000, 300), (256, 256), (100, 120)])
def test_the_centre_is_cropped(tmp_path, size):
    path = tmp_path / "picture.png"
    gradient(*size).save(path)
    crop = pictures.CentralCrop()(pictures.load(path)).astype(float)
    # Colours tell where the crop's corners are in the picture, from 0 to 1.
    share = [224 / 256 * min(size) / side for side in size]
    for channel, corner in ((0, crop[112, [0, -1], 0]), (1, crop[[0, -1], 112, 1])):
        expected = 255 * np.array([0.5 - share[channel] / 2, 0.5 + share[channel] / 2])
        np.testing.assert_allclose(corner, expected, atol=3)


def test_ten_crops():
    """The corners and the middle, of a mirror image too: colours tell where a crop was."""
    ten = pictures.CentralCrop(256, 224).ten(gradient(400, 300)).astype(float)
    assert ten.shape == (10, 224, 224, 3)
    width, free = 256 * 400 / 300, 256 - 224
    lefts, tops = [0, width - 224, 0, width - 224, (width - 224) / 2], [0, 0, free, free, free / 2]
    for crop, left, top in zip(ten, lefts, tops, strict=False):
        np.testing.assert_allclose(crop[112, 0, 0], 255 * left / width, atol=3)
        np.testing.assert_allclose(crop[0, 112, 1], 255 * top / 256, atol=3)
    np.testing.assert_array_equal(ten[4], pictures.CentralCrop(256, 224)(gradient(400, 300)))
    np.testing.assert_array_equal(ten[5:9], ten[[1, 0, 3, 2], :, ::-1])


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA"])
def test_pictures_of_other_colour_spaces(tmp_path, mode):
    path = tmp_path / ("picture.png" if mode == "RGBA" else "picture.JPEG")
    gradient(256, 256).convert(mode).save(path)
    assert pictures.CentralCrop()(pictures.load(path)).shape == (224, 224, 3)
    assert pictures.CentralCrop()(pictures.load(path, "L")).shape == (224, 224, 1)


def test_sixteen_bits_of_grey(tmp_path):
    path = tmp_path / "picture.png"
    values = np.arange(256 * 256, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(path)
    np.testing.assert_array_equal(np.asarray(pictures.load(path, "L")), values >> 8)


def test_a_camera_held_upright(tmp_path):
    """EXIF's orientation 6: the first row is the right side."""
    path, stored = tmp_path / "picture.jpg", gradient(64, 32)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(path, exif=exif, quality=95)
    assert pictures.load(path).size == (64, 32)
    upright = pictures.load(path, upright=True)
    assert upright.size == (32, 64)
    turned = np.rot90(np.asarray(pictures.load(path)), -1)
    np.testing.assert_array_equal(np.asarray(upright), turned)


@pytest.mark.parametrize("settings", [dict(resize=200), dict(size=0), dict(interpolation="cubic")])
def test_impossible_crops(settings):
    with pytest.raises(InputError):
        pictures.CentralCrop(**settings)
