"""Mixup, cutmix and random erasing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from densenet_jax.data import mixing
from densenet_jax.data.batches import Batch
from densenet_jax.errors import InputError

KEY = jax.random.key(0)
mix = jax.jit(mixing.mix, static_argnums=(3, 4))
erase = jax.jit(mixing.erase, static_argnums=3)


def one_color_batch(images, side=32, mask=None):
    """Returns a batch of which image i has the value i in each pixel, and the label i."""
    values = jnp.arange(images, dtype=jnp.float32)
    pixels = jnp.broadcast_to(values[:, None, None, None], (images, side, side, 1))
    return Batch(pixels, jnp.arange(images), jnp.ones(images) if mask is None else mask)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_labels_have_the_mass_of_their_pixels(mixup, cutmix):
    mixed = mix(one_color_batch(512), jnp.arange(512), KEY, mixup, cutmix)
    own, other = np.arange(512), np.arange(512) ^ 1
    np.testing.assert_array_equal(mixed.partners.labels, other)
    of_pixels = (np.asarray(mixed.images, np.float64).mean((1, 2, 3)) - other) / (own - other)
    np.testing.assert_allclose(mixed.partners.share, of_pixels, atol=1e-4)
    assert 0.4 < mixed.partners.share.mean() < 0.8


def test_mass_is_exact_in_float64(float64):
    batch = one_color_batch(2)._replace(images=jnp.ones((2, 9, 7, 1)).at[1].set(0.0))
    for seed in range(20):
        mixed = mix(batch, jnp.arange(2), jax.random.key(seed), 0.8, 1.0)
        np.testing.assert_allclose(mixed.images[0].mean(), mixed.partners.share[0], atol=1e-12)


def test_64_bit_types_change_no_type(float64):
    """Otherwise the totals of a run would change their type in the first step."""
    mixed = mix(one_color_batch(2), jnp.arange(2), KEY, 0.8, 1.0)
    assert mixed.images.dtype == mixed.partners.share.dtype == jnp.float32
    assert erase(mixed.images, jnp.arange(2), KEY, 0.5).dtype == jnp.float32


def shares(mixup, cutmix, images=4000, side=2):
    mixed = mix(one_color_batch(images, side), jnp.arange(images), KEY, mixup, cutmix)
    return np.asarray(mixed.partners.share), mixed


@pytest.mark.parametrize("alpha", [0.2, 0.8, 3.0])
def test_shares_of_mixup_have_the_beta_distribution(alpha):
    found, _ = shares(alpha, 0.0)
    assert stats.kstest(found, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert stats.kstest(found, stats.beta(1.5 * alpha, 1.5 * alpha).cdf).pvalue < 0.01


def test_boxes_of_cutmix_have_the_distribution_of_its_authors():
    """Draws boxes with NumPy as the authors do, and compares the remaining shares."""
    side, random = 32, np.random.default_rng(0)
    half = (np.sqrt(1 - random.beta(1, 1, 4000)) * side).astype(int) // 2
    sides = [
        np.clip(center + half, 0, side) - np.clip(center - half, 0, side)
        for center in random.integers(0, side, (2, 4000))
    ]
    expected = 1 - sides[0] * sides[1] / side**2
    found, mixed = shares(0.0, 1.0, 4000, side)
    assert stats.ks_2samp(found, expected).pvalue > 0.01
    assert set(np.unique(mixed.images[0])) <= {0.0, 1.0}


def test_both_are_chosen_equally_often():
    _, mixed = shares(1.0, 1.0, 2000, 8)
    whole_numbers = (np.asarray(mixed.images) % 1 == 0).all((1, 2, 3))
    assert 0.45 < whole_numbers.mean() < 0.55


def test_images_without_partner_stay():
    mask = jnp.array([1.0, 1, 1, 0, 1])
    mixed = mix(one_color_batch(5, mask=mask), jnp.arange(5), KEY, 0.8, 0.0)
    np.testing.assert_allclose(mixed.partners.share[jnp.array([2, 4])], 1)
    np.testing.assert_array_equal(mixed.images[2], np.full((32, 32, 1), 2.0))
    np.testing.assert_array_equal(mixed.images[4], np.full((32, 32, 1), 4.0))
    assert (np.asarray(mixed.partners.share[:2]) < 1).all()


def test_the_image_decides_its_changes():
    """Neither the place in the batch nor the partner changes the share of an image."""
    indices = jnp.array([7, 3, 9, 1])
    first = mix(one_color_batch(4), indices, KEY, 0.8, 1.0).partners.share
    second = mix(one_color_batch(4), indices[::-1], KEY, 0.8, 1.0).partners.share
    np.testing.assert_array_equal(first, second[::-1])
    images = jnp.zeros((4, 16, 16, 3))
    erased = erase(images, indices, KEY, 0.9)
    np.testing.assert_array_equal(erased, erase(images, indices[::-1], KEY, 0.9)[::-1])


def test_erased_boxes_have_the_sides_of_timm():
    images = jnp.full((2000, 32, 32, 1), 9.0)
    erased = np.asarray(erase(images, jnp.arange(2000), KEY, 0.25))
    box = (erased != 9)[..., 0]
    changed = box.any((1, 2))
    assert 0.22 < changed.mean() < 0.28
    area = box[changed].mean((1, 2))
    assert area.min() > 0.01 and area.max() < 0.36 and stats.kstest(
        area, stats.uniform(0.02, 1 / 3 - 0.02).cdf
    ).statistic < 0.1  # fmt: skip
    height, width = box[changed].any(2).sum(1), box[changed].any(1).sum(1)
    np.testing.assert_allclose(height * width, box[changed].sum((1, 2)))  # Boxes are filled.
    assert 0.4 < (height > width).mean() < 0.6 and (height / width).max() < 4.5
    noise = erased[box]
    assert stats.kstest(noise[:5000, 0], stats.norm.cdf).pvalue > 0.01


def test_mixing_needs_augmentation():
    import small

    from densenet_jax.train.trainer import Trainer

    with pytest.raises(InputError, match=r"data\.cutmix is 1\.0, but data\.augment is False"):
        Trainer(small.config({"data.augment": False, "data.cutmix": 1.0}))
