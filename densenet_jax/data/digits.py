"""Reads scikit-learn's digits: 8 x 8 grey images with values from 0 to 16."""

import numpy as np

from densenet_jax.data.dataset import Split
from densenet_jax.data.facts import FACTS
from densenet_jax.data.reader import Found, Reader, Request

_TEST_EVERY = 5  # Every fifth image is a test image.


def _read(request: Request) -> Found:
    """Returns the digits that come with scikit-learn. Needs no files."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    test = np.arange(len(labels)) % _TEST_EVERY == 0
    parts = {
        "train": Split(images[~test], labels[~test]),
        "test": Split(images[test], labels[test]),
    }
    return Found(FACTS["digits"], parts)


DIGITS = Reader(_read)
