"""Tests the order of examples, batches and normalisation."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from densenet_jax.data import batches
from densenet_jax.data.batches import PADDING


@pytest.mark.parametrize("examples, batch_size", [(100, 32), (96, 32), (5, 5), (1, 3)])
def test_an_epoch_is_a_permutation(examples, batch_size):
    order = batches.epoch_order(0, 0, examples, batch_size)
    assert order.dtype == np.int32
    assert order.shape == (-(-examples // batch_size), batch_size)
    flat = order.ravel()
    assert sorted(flat[:examples]) == list(range(examples))
    # So padding, if any, ends the last row.
    assert (flat[examples:] == PADDING).all()


def test_drop_last_omits_the_short_batch():
    whole = batches.epoch_order(0, 0, 100, 32)
    np.testing.assert_array_equal(batches.epoch_order(0, 0, 100, 32, drop_last=True), whole[:3])
    even = batches.epoch_order(0, 0, 96, 32)
    np.testing.assert_array_equal(batches.epoch_order(0, 0, 96, 32, drop_last=True), even)


def test_epochs_and_seeds_have_different_orders():
    pairs = list(itertools.product(range(3), range(3)))
    orders = {pair: batches.epoch_order(*pair, 50, 10).tobytes() for pair in pairs}
    assert len(set(orders.values())) == len(pairs)
    for pair in pairs:
        assert batches.epoch_order(*pair, 50, 10).tobytes() == orders[pair]


def test_images_are_normalised_and_padding_is_masked():
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 2, 3), np.uint8)
    labels, mean, std = np.array([3, 1, 4], np.int32), (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
    indices = np.array([2, 0, PADDING])
    batch = batches.normalize(images, labels, indices, mean, std, jnp.float32)
    expected = (images.astype(np.float64) - mean) / std
    np.testing.assert_allclose(batch.images, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(batch.labels, labels)
    np.testing.assert_array_equal(batch.mask, [1, 1, 0])


def test_images_are_normalised_before_rounding_to_bfloat16():
    images = np.full((1, 1, 1, 1), 255, np.uint8)
    index = np.array([0])
    batch = batches.normalize(images, index, index, (254.5,), (1.0,), jnp.bfloat16)
    assert batch.images.dtype == jnp.bfloat16 and batch.mask.dtype == jnp.float32
    assert float(batch.images[0, 0, 0, 0]) == 0.5  # bfloat16 cannot represent 254.5.
