"""Tests decoding of pictures of all kinds, and central crops."""

import numpy as np
import pytest
from PIL import Image

from densenet_jax.data import pictures
from densenet_jax.data.random_crop import draw_box, random_crop
from densenet_jax.errors import InputError


def gradient(width, height):
    """Returns a smooth picture in which the colour shows the position."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("size", [(300, 400), (1000, 300), (256, 256), (100, 120)])
def test_the_centre_is_cropped(tmp_path, size):
    path = tmp_path / "picture.png"
    gradient(*size).save(path)
    crop = pictures.CentralCrop()(pictures.load(path)).astype(float)
    # Colours show the position of the crop's corners in the picture, from 0 to 1.
    share = [224 / 256 * min(size) / side for side in size]
    for channel, corner in ((0, crop[112, [0, -1], 0]), (1, crop[[0, -1], 112, 1])):
        expected = 255 * np.array([0.5 - share[channel] / 2, 0.5 + share[channel] / 2])
        np.testing.assert_allclose(corner, expected, atol=3)


def test_ten_crops():
    """Colours show the position of the crops: corners and centre, plain and mirrored."""
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
def test_other_colour_spaces(tmp_path, mode):
    path = tmp_path / ("picture.png" if mode == "RGBA" else "picture.JPEG")
    gradient(256, 256).convert(mode).save(path)
    assert pictures.CentralCrop()(pictures.load(path)).shape == (224, 224, 3)
    assert pictures.CentralCrop()(pictures.load(path, "L")).shape == (224, 224, 1)


def test_sixteen_bits_of_grey(tmp_path):
    path = tmp_path / "picture.png"
    values = np.arange(256 * 256, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(path)
    np.testing.assert_array_equal(np.asarray(pictures.load(path, "L")), values >> 8)
    path = tmp_path / "picture.pgm"
    path.write_bytes(b"P5 256 256 65535\n" + values.astype(">u2").tobytes())
    np.testing.assert_array_equal(np.asarray(pictures.load(path, "L")), values >> 8)


def test_transparent_palettes_are_read_without_a_warning(tmp_path):
    path = tmp_path / "picture.png"
    palette = gradient(64, 64).quantize(16)
    palette.save(path, transparency=bytes(range(16)))
    np.testing.assert_array_equal(
        np.asarray(pictures.load(path)), np.asarray(palette.convert("RGB"))
    )


@pytest.mark.parametrize(
    "pixels, words",
    [
        (np.ones((4, 4), np.float32), "has floating-point pixels: convert it"),
        (
            np.full((4, 4), 100_000, np.int32),
            "has pixels from 100000 to 100000, beyond 16 bits",
        ),
        (np.full((4, 4), -1, np.int32), "has pixels from -1 to -1, beyond 16 bits"),
        (np.full((4, 4), 200, np.int32), "has pixels of 16 or 32 bits with values up to 200"),
        (np.full((4, 4), 200, np.uint16), "has pixels of 16 or 32 bits with values up to 200"),
    ],
)
def test_pixels_of_unknown_range_are_refused(tmp_path, pixels, words):
    path = tmp_path / "picture.tif"
    Image.fromarray(pixels).save(path)
    with pytest.raises(InputError, match=f"{path} {words}"):
        pictures.load(path)


def test_dark_pictures_of_16_bits(tmp_path, caplog):
    """A black picture stays black; values of 12 bits are reported once."""
    pictures._warn_of_dark_pictures.cache_clear()
    for value, expected in ((0, 0), (65535, 255), (4095, 15), (4000, 15)):
        path = tmp_path / "picture.png"
        Image.fromarray(np.full((4, 4), value, np.uint16)).save(path)
        assert np.unique(pictures.load(path)).tolist() == [expected]
    assert caplog.text.count("rescale them if they have 12 bits") == 1


def test_extreme_shapes_are_refused(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("L", (1, 65_000)).save(path)
    with pytest.raises(ValueError, match="1 x 65000 pixels, which would become 256 x 16,640,000"):
        pictures.CentralCrop()(pictures.load(path))


def test_formats_are_tried_in_pillows_order():
    """Another order would change pixels, because some formats accept files of other formats."""
    order = [name for name in Image.ID if name in pictures._formats()]
    assert list(pictures._formats()) == order and {"JPEG", "TGA"} <= set(order)


def test_formats_that_start_other_programs_are_refused(tmp_path):
    path = tmp_path / "picture.jpg"
    gradient(8, 8).save(path, "EPS")
    with pytest.raises(InputError, match="Pillow does not know its format"):
        pictures.load(path)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".tif"])
def test_pixels_equal_those_of_torchvisions_loader(tmp_path, ending, orientation):
    """torchvision's loader opens and converts a picture with Pillow, and ignores its orientation.

    Pillow itself applies the orientation of TIFF files.
    """
    path, stored = tmp_path / f"picture{ending}", gradient(64, 32)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(path, exif=exif)
    expected = np.asarray(Image.open(path).convert("RGB"))
    assert expected.shape[0] == (64 if ending == ".tif" and orientation > 4 else 32)
    np.testing.assert_array_equal(np.asarray(pictures.load(path)), expected)
    np.testing.assert_array_equal(np.asarray(pictures.decode(path.read_bytes())), expected)
    # The random crop uses the same pixels.
    box = draw_box(np.random.default_rng(3), *expected.shape[1::-1])
    crop = random_crop(path.read_bytes(), 32, np.random.default_rng(3)).astype(float)
    part = Image.fromarray(expected).crop(
        (box.left, box.top, box.left + box.width, box.top + box.height)
    )
    assert abs(crop - np.asarray(part.resize((32, 32), Image.Resampling.BICUBIC))).mean() < 6


def test_large_pictures_are_refused_but_not_called_damaged(tmp_path):
    """Pictures of 108 megapixels, as some telephones take, are read by default."""
    path, limit = tmp_path / "picture.jpg", Image.MAX_IMAGE_PIXELS
    Image.new("L", (12_000, 9_000), 77).save(path)
    data = path.read_bytes()
    read = (
        lambda **options: pictures.load(path, **options),
        lambda **options: pictures.decode(data, **options),
        lambda **options: random_crop(data, 32, np.random.default_rng(0), **options),
    )
    for reader in read:
        pixels = np.asarray(reader())
        assert pixels.min() == pixels.max() == 77
        with pytest.raises(
            ValueError, match="has 108,000,000 pixels, more than the limit of 1,000:"
        ):
            reader(max_pixels=1000)
    with pytest.raises(InputError, match=f"{path} has 108.* make it smaller, or raise max_pixels"):
        pictures.load(path, max_pixels=1000)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("settings", [dict(resize=200), dict(size=0), dict(interpolation="cubic")])
def test_impossible_crops(settings):
    with pytest.raises(InputError):
        pictures.CentralCrop(**settings)
