"""Tests random crops against a plain implementation and against Pillow."""

import math

import numpy as np
import pytest
import small_imagenet
from PIL import Image
from scipy import stats

from densenet_jax.data import pictures
from densenet_jax.data.random_crop import Box, draw_box, random_crop


def plain_box(random, width, height):
    """Returns width, height, left and top, as RandomSizedCrop of fb.resnet.torch does."""
    for _ in range(10):
        target = random.uniform(0.08, 1.0) * width * height
        aspect = random.uniform(3 / 4, 4 / 3)
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if random.uniform() < 0.5:
            w, h = h, w
        if h <= height and w <= width:
            return w, h, random.randint(0, width - w + 1), random.randint(0, height - h + 1)
    side = min(width, height)
    return side, side, (width - side) // 2, (height - side) // 2


@pytest.mark.parametrize(("width", "height"), [(500, 375), (120, 400)])
def test_boxes_have_the_distribution_of_the_plain_implementation(width, height):
    """Compares areas, aspect ratios and positions of 10,000 boxes by chi-square tests."""
    count = 10_000
    ours, random = np.random.default_rng(0), np.random.RandomState(1)
    boxes = np.array([draw_box(ours, width, height) for _ in range(count)])[:, [2, 3, 0, 1]]
    theirs = np.array([plain_box(random, width, height) for _ in range(count)])
    for measure in (
        lambda w, h, left, top: w * h / (width * height),
        lambda w, h, left, top: np.log(w / h),
        lambda w, h, left, top: left / np.maximum(width - w, 1),
        lambda w, h, left, top: top / np.maximum(height - h, 1),
    ):
        both = [measure(*some.T) for some in (boxes, theirs)]
        edges = np.unique(np.quantile(both[1], np.linspace(0, 1, 21)))
        edges[0], edges[-1] = -np.inf, np.inf
        table = np.array([np.histogram(values, edges)[0] for values in both])
        assert stats.chi2_contingency(table).pvalue > 1e-3


def test_the_centre_is_used_if_no_box_fits():
    random = np.random.default_rng(0)
    assert draw_box(random, 1000, 10) == Box(495, 0, 10, 10)
    assert draw_box(random, 1, 1) == Box(0, 0, 1, 1)


def expected(data, box, size):
    """Returns the box by Pillow, whose bicubic interpolation averages when it reduces."""
    picture = pictures.decode(data).crop(
        (box.left, box.top, box.left + box.width, box.top + box.height)
    )
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC), float)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("size", [(500, 375), (1000, 900)])
def test_crops_are_close_to_pillows(number, size):
    """Most crops of the larger picture are decoded at half its size."""
    data = small_imagenet.encode(small_imagenet.photograph(number, size))
    for seed in range(10):
        box = draw_box(np.random.default_rng(seed), *size)
        found = random_crop(data, 224, np.random.default_rng(seed))
        assert found.shape == (224, 224, 3) and found.dtype == np.uint8
        assert abs(found - expected(data, box, 224)).mean() < 5


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("size", [112, 20])
def test_unusual_jpegs_are_read_as_by_pillow(mode, size):
    data = small_imagenet.encode(small_imagenet.photograph(0, (300, 200)).convert(mode))
    box = draw_box(np.random.default_rng(0), 300, 200)
    found = random_crop(data, size, np.random.default_rng(0))
    assert abs(found - expected(data, box, size)).mean() < 6


def test_a_png_and_damaged_pictures():
    data = small_imagenet.encode(small_imagenet.photograph(0, (60, 40)), "PNG")
    assert random_crop(data, 30, np.random.default_rng(0)).shape == (30, 30, 3)
    for damaged in (data[:200], b"", b"no picture"):
        with pytest.raises(Exception):  # noqa: B017
            random_crop(damaged, 30, np.random.default_rng(0))
    whole = small_imagenet.encode(small_imagenet.photograph(0, (600, 400)))
    with pytest.raises(OSError, match="truncated"):
        random_crop(whole[: len(whole) // 2], 30, np.random.default_rng(0))
