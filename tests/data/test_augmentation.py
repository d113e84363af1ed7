"""Tests the random changes to training images."""

import itertools

import jax
import numpy as np
import pytest
from scipy import stats
from scipy.optimize import least_squares

from densenet_jax.data.augmentation import change_colors, shift_and_flip


def noise(count, shape=(4, 4, 2)):
    """Returns images in which all values differ."""
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


@pytest.mark.slow
def test_shifts_and_flips_depend_only_on_key_and_example():
    images, indices, key = noise(20), np.arange(100, 120), jax.random.key(3)

    def augment(some):
        return np.asarray(shift_and_flip(images[some], indices[some], key, 2, True))

    whole = augment(np.arange(20))
    np.testing.assert_array_equal(augment(np.arange(20)[::-1]), whole[::-1])
    np.testing.assert_array_equal(augment([7]), whole[[7]])
    np.testing.assert_array_equal(augment([9, 7, 3]), whole[[9, 7, 3]])
    other_key = shift_and_flip(images, indices, jax.random.key(4), 2, True)
    other_examples = shift_and_flip(images, indices + 20, key, 2, True)
    for other in (other_key, other_examples):
        same = (np.asarray(other) == whole).all((1, 2, 3))
        assert same.mean() < 0.5


@pytest.mark.parametrize(("flip", "mode"), [(True, "zeros"), (False, "zeros"), (False, "reflect")])
def test_crops_and_flips_occur_equally_often(flip, mode):
    """Also checks that each result is a crop of the image, plain or mirrored, with its border."""
    count, padding = 5000, 2
    images = noise(count)
    pictures = shift_and_flip(images, np.arange(count), jax.random.key(0), padding, flip, mode)
    pictures = np.asarray(pictures)
    occurred = []
    for mirrored in (images, images[:, :, ::-1])[: 1 + flip]:
        borders = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        padded = np.pad(mirrored, borders, mode="constant" if mode == "zeros" else mode)
        for top, left in itertools.product(range(2 * padding + 1), repeat=2):
            crop = padded[:, top : top + 4, left : left + 4]
            occurred.append((crop == pictures).all((1, 2, 3)))
    occurred = np.array(occurred)
    np.testing.assert_array_equal(occurred.sum(0), np.ones(count))
    assert stats.chisquare(occurred.sum(1)).pvalue > 1e-4


def test_no_border_and_no_flips_change_nothing():
    images = noise(3, (5, 7, 1))
    same = shift_and_flip(images, np.arange(3), jax.random.key(0), 0, False)
    np.testing.assert_array_equal(same, images)


GREY = np.array([0.299, 0.587, 0.114])


def blend(image, kind, share):
    """Applies one of fb.resnet.torch's three changes of colour to an image `[H, W, 3]`."""
    grey = (image @ GREY)[..., None]
    towards = {"brightness": 0 * grey, "contrast": grey.mean(), "saturation": grey}[kind]
    return share * image + (1 - share) * towards


def colors(count, jitter, lighting, image):
    images = np.repeat(image[None], count, 0).astype(np.float32)
    changed = change_colors(images, np.arange(count), jax.random.key(0), jitter, lighting)
    return np.asarray(changed, np.float64)


@pytest.fixture
def image():
    return np.random.default_rng(1).integers(0, 256, (6, 5, 3)).astype(np.float64)


KINDS = ("brightness", "contrast", "saturation")


@pytest.mark.parametrize("order", list(itertools.permutations(KINDS)))
def test_jitter_is_a_sequence_of_three_blends(image, order):
    """Finds, for each order of the blends, three shares that give the same image."""
    drawn = []
    for changed in colors(20, 0.4, 0.0, image):

        def misfit(shares, changed=changed):
            made = image
            for kind, share in zip(order, shares, strict=True):
                made = blend(made, kind, share)
            return (made - changed).ravel()

        found = least_squares(misfit, np.ones(3))
        assert abs(found.fun).max() < 1e-2  # Colours beyond 0 and 255 are kept.
        drawn.append(found.x)
    assert 0.6 - 1e-4 < np.min(drawn) < 0.7 and 1.3 < np.max(drawn) < 1.4 + 1e-4


@pytest.mark.slow
def test_colors_have_the_same_moments_as_a_plain_implementation(image):
    count, jitter, lighting = 20_000, 0.4, 0.1
    ours = colors(count, jitter, lighting, image)
    random, theirs = np.random.default_rng(2), np.empty_like(ours)
    values = np.array([0.2175, 0.0188, 0.0045])
    vectors = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    for made in theirs:
        made[:] = image
        for kind in random.permutation(KINDS):
            made[:] = blend(made, kind, 1 + random.uniform(-jitter, jitter))
        made += 255 * (vectors * random.normal(0, lighting, 3) * values).sum(1)
    ours, theirs = (made.reshape(count, -1) for made in (ours, theirs))
    deviation = theirs.std(0)
    # Five standard errors.
    assert (abs(ours.mean(0) - theirs.mean(0)) < 5 * deviation * np.sqrt(2 / count)).all()
    assert (abs(ours.std(0) / deviation - 1) < 0.04).all()
    correlations = [np.corrcoef(made[:, :9].T) for made in (ours, theirs)]
    np.testing.assert_allclose(*correlations, atol=0.04)


def test_light_has_the_colours_of_imagenet():
    """Compares the covariance of the light with the published components and deviations."""
    grey = np.full((1, 1, 3), 128.0)
    light = colors(20_000, 0.0, 0.1, grey)[:, 0, 0] - 128
    assert abs(light.mean(0)).max() < 0.2
    values, vectors = np.linalg.eigh(np.cov(light.T))
    np.testing.assert_allclose(
        np.sqrt(values), 25.5 * np.array([0.0045, 0.0188, 0.2175]), rtol=0.03
    )
    assert abs(vectors[:, 2] @ [-0.5675, -0.5808, -0.5836]) > 0.999


def test_colors_depend_only_on_key_and_example(image):
    images = np.stack([image] * 4).astype(np.float32)
    key = jax.random.key(1)
    whole = change_colors(images, np.arange(4), key, 0.4, 0.1)
    alone = change_colors(images[2:3], np.array([2]), key, 0.4, 0.1)
    np.testing.assert_allclose(alone[0], whole[2], rtol=1e-6)
    assert not np.allclose(whole[0], whole[1])
