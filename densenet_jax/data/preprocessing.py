"""Preprocesses whole sets before training: contrast normalisation and whitening.

Both work as in Pylearn2, which prepared CIFAR for maxout networks and many later ones. See
global_contrast_normalize in expr/preprocessing.py, ZCA in datasets/preprocessing.py, and the
constants in scripts/datasets/make_cifar10_gcn_whitened.py of Pylearn2.
"""

import dataclasses

import numpy as np

from densenet_jax.data.dataset import Dataset, Placeholder, Split, placeholder
from densenet_jax.errors import InputError

CONTRAST = 55.0  # The norm of an image.
FILTER_BIAS = 0.1  # Added to the variances before whitening divides by them.
_CHUNK = 2000  # Images transformed at a time. Larger uses more memory.


def preprocess(dataset: Dataset, kind: str) -> Dataset:
    """Preprocesses all splits of a set.

    Args:
      dataset: a set in memory, or described by `sources.describe`; of any kind for "standardize".
      kind: "standardize" returns `dataset`, to be standardised in each step by its mean and std.
        "gcn" normalises the contrast of each image. "gcn_zca" then whitens all splits by the
        statistics of the training split. Both give float32 images, with mean 0 and std 1.

    Raises InputError for "gcn" and "gcn_zca" if the set is streamed.
    """
    if kind == "standardize":
        return dataset
    splits = {
        name: split
        for name in ("train", "test", "validation")
        if isinstance(split := getattr(dataset, name), Split)
    }
    if "train" not in splits:
        raise InputError(
            f"data.preprocessing {kind!r} needs a set in memory, but {dataset.name} is streamed: "
            "use 'standardize'"
        )
    images = _preprocessed({name: split.images for name, split in splits.items()}, kind)
    made = {name: Split(images[name], split.labels) for name, split in splits.items()}
    channels = dataset.image_shape[-1]
    return dataclasses.replace(
        dataset,
        train=made["train"],
        test=made["test"],
        validation=made.get("validation"),
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )


def _preprocessed(images: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """Returns the images of each split after "gcn" or "gcn_zca"."""
    if isinstance(images["train"], Placeholder):
        return {name: placeholder(values.shape, np.float32) for name, values in images.items()}
    images = {name: normalize_contrast(values) for name, values in images.items()}
    if kind == "gcn_zca":
        mean, matrix = whitening(images["train"])
        images = {name: whiten(values, mean, matrix) for name, values in images.items()}
    return images


def normalize_contrast(images: np.ndarray, contrast: float = CONTRAST) -> np.ndarray:
    """Subtracts from each image its mean, and scales it to a norm of `contrast`.

    Args:
      images: `[N, H, W, C]`.

    Returns float32 images. An image without contrast becomes all zeros.
    """
    normalized = np.empty(images.shape, np.float32)
    for start in range(0, len(images), _CHUNK):
        flat = images[start : start + _CHUNK].reshape(-1, images[0].size).astype(np.float64)
        flat -= flat.mean(1, keepdims=True)
        norms = np.linalg.norm(flat, axis=1, keepdims=True)
        norms[norms < 1e-8 * contrast] = contrast
        chunk = flat * (contrast / norms)
        normalized[start : start + _CHUNK] = chunk.reshape(-1, *images.shape[1:])
    return normalized


def whitening(
    images: np.ndarray, filter_bias: float = FILTER_BIAS
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean image `[D]` and the ZCA matrix `[D, D]` of images, with D = H W C.

    The matrix is symmetric. It changes the variance of a principal component from v to
    v / (v + filter_bias). Both are computed in float64.

    Args:
      images: `[N, H, W, C]`.
    """
    dimensions = images[0].size
    mean = images.reshape(-1, dimensions).mean(0, dtype=np.float64)
    covariance = np.zeros((dimensions, dimensions))
    for start in range(0, len(images), _CHUNK):
        centered = images[start : start + _CHUNK].reshape(-1, dimensions) - mean
        covariance += centered.T @ centered
    variances, components = np.linalg.eigh(covariance / len(images))
    # Rounding makes variances of zero slightly negative.
    scales = 1 / np.sqrt(np.maximum(variances, 0) + filter_bias)
    return mean, (components * scales) @ components.T


def whiten(images: np.ndarray, mean: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Whitens images `[N, H, W, C]` by the mean and the matrix of `whitening`. Returns float32."""
    whitened = np.empty(images.shape, np.float32)
    matrix = matrix.astype(np.float32)
    for start in range(0, len(images), _CHUNK):
        flat = images[start : start + _CHUNK].reshape(-1, len(mean)) - mean
        chunk = flat.astype(np.float32) @ matrix
        whitened[start : start + _CHUNK] = chunk.reshape(-1, *images.shape[1:])
    return whitened
