"""Reads scikit-learn's digits: 8 x 8 grey images with values from 0 to 16."""

import importlib.util
import pathlib

import numpy as np

from densenet_jax.data.dataset import Split
from densenet_jax.data.facts import FACTS
from densenet_jax.data.reader import Found, Reader, Request

_TEST_EVERY = 5  # Every fifth image is a test image.


def _read(request: Request) -> Found:
    """Returns the digits that come with scikit-learn. Needs no files."""
    # `sklearn.datasets.load_digits` gives the same, but its import takes as long as two epochs.
    package = importlib.util.find_spec("sklearn")
    assert package and package.origin
    path = pathlib.Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(path, np.uint8, delimiter=",")
    images, labels = table[:, :-1].reshape(-1, 8, 8, 1), table[:, -1].astype(np.int32)
    test = np.arange(len(labels)) % _TEST_EVERY == 0
    parts = {
        "train": Split(images[~test], labels[~test]),
        "test": Split(images[test], labels[test]),
    }
    return Found(FACTS["digits"], parts)


DIGITS = Reader(_read)
