"""Order, batches and augmentation of a set that lives on the device."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from densenet_jax.data import resident
from densenet_jax.data.resident import PADDING


@pytest.mark.parametrize("examples, batch_size", [(100, 32), (96, 32), (5, 5), (1, 3)])
def test_an_epoch_is_a_permutation(examples, batch_size):
    order = resident.epoch_order(0, 0, examples, batch_size)
    assert order.dtype == np.int32
    assert order.shape == (-(-examples // batch_size), batch_size)
    flat = order.ravel()
    assert sorted(flat[:examples]) == list(range(examples))
    # Hence padding, if any, ends the last row.
    assert (flat[examples:] == PADDING).all()


def test_the_last_batch_can_be_left_out():
    whole = resident.epoch_order(0, 0, 100, 32)
    np.testing.assert_array_equal(resident.epoch_order(0, 0, 100, 32, drop_last=True), whole[:3])
    even = resident.epoch_order(0, 0, 96, 32)
    np.testing.assert_array_equal(resident.epoch_order(0, 0, 96, 32, drop_last=True), even)


def test_epochs_and_seeds_have_orders_of_their_own():
    pairs = list(itertools.product(range(3), range(3)))
    orders = {pair: resident.epoch_order(*pair, 50, 10).tobytes() for pair in pairs}
    assert len(set(orders.values())) == len(pairs)
    for pair in pairs:
        assert resident.epoch_order(*pair, 50, 10).tobytes() == orders[pair]


def test_take_normalises_and_masks():
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 2, 3), np.uint8)
    labels, mean, std = np.array([3, 1, 4, 1], np.int32), (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
    indices = np.array([2, 0, PADDING])
    batch = resident.take(jnp.asarray(images), jnp.asarray(labels), indices, mean, std, jnp.float32)
    expected = (images[[2, 0]].astype(np.float64) - mean) / std
    np.testing.assert_allclose(batch.images[:2], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(batch.labels[:2], [4, 3])
    np.testing.assert_array_equal(batch.mask, [1, 1, 0])
    assert np.isfinite(batch.images).all()


def test_take_normalises_before_it_rounds_to_bfloat16():
    images = jnp.full((1, 1, 1, 1), 255, jnp.uint8)
    batch = resident.take(
        images, jnp.zeros(1, jnp.int32), np.array([0]), (254.5,), (1.0,), jnp.bfloat16
    )
    assert batch.images.dtype == jnp.bfloat16 and batch.mask.dtype == jnp.float32
    assert float(batch.images[0, 0, 0, 0]) == 0.5  # bfloat16 has no 254.5


def noise(count, shape=(4, 4, 2)):
    """Images without two equal values in them."""
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def test_a_picture_depends_on_key_and_example_alone():
    images, indices, key = noise(20), np.arange(100, 120), jax.random.key(3)

    def augment(some):
        return np.asarray(resident.augment(images[some], indices[some], key, 2, True))

    whole = augment(np.arange(20))
    np.testing.assert_array_equal(augment(np.arange(20)[::-1]), whole[::-1])
    np.testing.assert_array_equal(augment([7]), whole[[7]])
    np.testing.assert_array_equal(augment([9, 7, 3]), whole[[9, 7, 3]])
    other_key = resident.augment(images, indices, jax.random.key(4), 2, True)
    other_examples = resident.augment(images, indices + 20, key, 2, True)
    for other in (other_key, other_examples):
        same = (np.asarray(other) == whole).all((1, 2, 3))
        assert same.mean() < 0.5


@pytest.mark.parametrize(("flip", "mode"), [(True, "zeros"), (False, "zeros"), (False, "reflect")])
def test_crops_and_flips_occur_equally_often(flip, mode):
    """Every picture is a crop of the image within a border, maybe mirrored."""
    count, padding = 5000, 2
    images = noise(count)
    pictures = resident.augment(images, np.arange(count), jax.random.key(0), padding, flip, mode)
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


def test_images_of_any_shape_without_a_border_or_flips_stay():
    images = noise(3, (5, 7, 1))
    same = resident.augment(images, np.arange(3), jax.random.key(0), 0, False)
    np.testing.assert_array_equal(same, images)
