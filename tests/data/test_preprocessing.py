"""Tests contrast normalisation and whitening."""

import dataclasses

import numpy as np
import pytest

from densenet_jax.data import sources
from densenet_jax.data.dataset import Placeholder
from densenet_jax.data.preprocessing import (
    FILTER_BIAS,
    normalize_contrast,
    preprocess,
    whiten,
    whitening,
)


@pytest.fixture(scope="module")
def images():
    """Returns coloured noise, with more images than pixels per image."""
    random = np.random.default_rng(0)
    mixing = random.normal(size=(48, 48))
    flat = random.normal(size=(5000, 48)) @ mixing * 3
    return flat.reshape(-1, 4, 4, 3).astype(np.float32)


def covariance(images):
    flat = images.reshape(len(images), -1).astype(np.float64)
    return np.cov(flat, rowvar=False, bias=True)


def test_zca_gives_unit_covariance(images):
    whitened = whiten(images, *whitening(images, filter_bias=0))
    np.testing.assert_allclose(covariance(whitened), np.eye(48), atol=1e-3)
    np.testing.assert_allclose(whitened.mean(0), 0, atol=1e-4)


def test_zca_with_a_filter_bias(images):
    before = np.linalg.eigvalsh(covariance(images))
    after = np.linalg.eigvalsh(covariance(whiten(images, *whitening(images))))
    np.testing.assert_allclose(after, before / (before + FILTER_BIAS), rtol=1e-3)


def test_zca_is_symmetric(images):
    """A symmetric whitening matrix keeps pixels in place."""
    _, matrix = whitening(images)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    assert np.linalg.eigvalsh(matrix).min() > 0


def test_normalized_contrast():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (10, 4, 4, 3)).astype(np.uint8)
    images[3] = 77  # No contrast at all.
    normalized = normalize_contrast(images)
    assert normalized.dtype == np.float32
    for i, image in enumerate(images.astype(float)):
        centered = image - image.mean()
        expected = 0 if i == 3 else 55 * centered / np.sqrt((centered**2).sum())
        np.testing.assert_allclose(normalized[i], expected, atol=1e-4)


def test_all_splits_are_whitened_by_the_training_split():
    digits = sources.load("digits", holdout=37)
    prepared = preprocess(digits, "gcn_zca")
    statistics = whitening(normalize_contrast(digits.train.images))
    for split in ("train", "validation", "test"):
        images = normalize_contrast(getattr(digits, split).images)
        np.testing.assert_array_equal(getattr(prepared, split).images, whiten(images, *statistics))
        np.testing.assert_array_equal(
            getattr(prepared, split).labels, getattr(digits, split).labels
        )
    assert prepared.mean == (0.0,) and prepared.std == (1.0,)
    assert abs(prepared.train.images.mean(0)).max() < 1e-3 < abs(prepared.test.images.mean(0)).max()


def test_standardize_changes_nothing_on_the_host():
    digits = sources.load("digits")
    assert preprocess(digits, "standardize") is digits


@pytest.mark.parametrize("kind", ["gcn", "gcn_zca"])
def test_described_sets(kind):
    described = preprocess(sources.describe("cifar10"), kind)
    images = described.train.images
    assert images.shape == (50_000, 32, 32, 3) and images.dtype == np.float32
    assert isinstance(images, Placeholder) and not any(images.strides)  # It takes no memory.
    loaded = preprocess(sources.load("digits"), kind)
    for field in dataclasses.fields(described):
        assert type(getattr(loaded, field.name)) is type(getattr(described, field.name))
