"""What is done to whole sets before training: contrast normalisation and whitening.

As in Pylearn2, which prepared CIFAR for maxout networks and many after them: see global_contrast_
normalize in its expr/preprocessing.py, ZCA in datasets/preprocessing.py, and the constants in
scripts/datasets/make_cifar10_gcn_whitened.py.
"""

import dataclasses

import jax
import numpy as np

from densenet_jax.data.sources import Dataset, Split
from densenet_jax.errors import InputError

CONTRAST = 55.0  # The norm of an image.
FILTER_BIAS = 0.1  # Added to the variances that whitening divides by.
_CHUNK = 2000  # Images transformed at once, which bounds the memory.


def preprocess(dataset: Dataset, kind: str) -> Dataset:
    """`dataset` as a network sees it.

    Args:
      dataset: its arrays may be `jax.ShapeDtypeStruct`s.
      kind: "standardize" leaves images as they are, to be standardised by the set's mean and
        deviation. "gcn" normalises the contrast of each image; "gcn_zca" then whitens all splits
        by the statistics of the training split. Both give float32 images, mean 0 and deviation 1.

    Raises InputError for these two and a set that is streamed.
    """
    if kind == "standardize":
        return dataset
    if dataset.streamed:
        raise InputError(
            f"{dataset.name} is not in memory: set data.preprocessing to 'standardize' for it."
        )
    splits = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
    splits = {name: split for name, split in splits.items() if split is not None}
    channels = dataset.train.images.shape[-1]
    kept = dict(mean=(0.0,) * channels, std=(1.0,) * channels)
    if isinstance(dataset.train.images, jax.ShapeDtypeStruct):
        images = {
            name: jax.ShapeDtypeStruct(split.images.shape, np.float32)
            for name, split in splits.items()
        }
    else:
        images = {name: normalize_contrast(split.images) for name, split in splits.items()}
        if kind == "gcn_zca":
            mean, matrix = whitening(images["train"])
            images = {name: whiten(values, mean, matrix) for name, values in images.items()}
    replaced = {name: Split(images[name], split.labels) for name, split in splits.items()}
    return dataclasses.replace(dataset, **replaced, **kept)


def normalize_contrast(images: np.ndarray, contrast: float = CONTRAST) -> np.ndarray:
    """Each of `[N, H, W, C]` less its mean, scaled to a norm of `contrast`; float32.

    An image without any contrast becomes all zeros.
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
    """The mean image `[D]` and the ZCA matrix `[D, D]` of `[N, H, W, C]`, with D = H W C.

    The matrix is the symmetric one that gives each principal component of variance v the variance
    v / (v + filter_bias). Computed in float64.
    """
    dimensions = images[0].size
    mean = images.reshape(-1, dimensions).mean(0, dtype=np.float64)
    covariance = np.zeros((dimensions, dimensions))
    for start in range(0, len(images), _CHUNK):
        centered = images[start : start + _CHUNK].reshape(-1, dimensions) - mean
        covariance += centered.T @ centered
    variances, components = np.linalg.eigh(covariance / len(images))
    # Rounding leaves components of no variance a little below zero.
    scales = 1 / np.sqrt(np.maximum(variances, 0) + filter_bias)
    return mean, (components * scales) @ components.T


def whiten(images: np.ndarray, mean: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """`[N, H, W, C]` by the mean and the matrix of `whitening`; float32."""
    whitened = np.empty(images.shape, np.float32)
    matrix = matrix.astype(np.float32)
    for start in range(0, len(images), _CHUNK):
        flat = images[start : start + _CHUNK].reshape(-1, len(mean)) - mean
        chunk = flat.astype(np.float32) @ matrix
        whitened[start : start + _CHUNK] = chunk.reshape(-1, *images.shape[1:])
    return whitened
