"""Divides training images so that every part has all classes in the same proportions.

The division depends only on the labels and on the number of parts or images.
"""

import logging
from collections.abc import Sequence

import numpy as np

from densenet_jax.data.dataset import Part, chosen
from densenet_jax.errors import InputError, counted, few


def by_class(labels: np.ndarray) -> np.ndarray:
    """Returns the positions of all examples: class after class, each class in random order."""
    shuffled = np.random.RandomState(0).permutation(len(labels))  # Its numbers never change.
    return shuffled[np.argsort(labels[shuffled], kind="stable")]


def assign(labels: np.ndarray, folds: int) -> np.ndarray:
    """Returns the fold of each example, from 0.

    The sizes of two folds differ by at most one image, in each class and in all.
    """
    found = np.empty(len(labels), int)
    found[by_class(labels)] = np.arange(len(labels)) % folds
    return found


def divide(
    train: Part, folds: int, fold: int, classes: Sequence[str] | None = None
) -> tuple[Part, Part]:
    """Returns the images outside `fold`, for training, and those in `fold`, for validation.

    Logs a warning that names the classes with fewer images than `folds`.

    Args:
      classes: names of the classes, in the order of labels.

    Raises InputError if there are fewer images than folds, or if only reading tells their labels.
    """
    labels = _labels(train, "data.folds")
    if folds > len(labels):
        raise InputError(
            f"data.folds is {folds:,}, but the training set has "
            f"{counted(len(labels), 'image')}: use 2 to {len(labels):,}"
        )
    present, counts = np.unique(labels, return_counts=True)
    if len(rare := present[counts < folds]):
        noun = "label combination" if classes is None and labels is not train.labels else "class"
        names = [classes[label] if classes else f"class {label}" for label in rare]
        logging.getLogger("densenet_jax").warning(
            "%s fewer than %d training images, so some folds have none of them%s",
            f"{counted(len(rare), noun)} {'has' if len(rare) == 1 else 'have'}",
            folds,
            f": {few(names)}" if noun == "class" else "",
        )
    is_held = assign(labels, folds) == fold
    return chosen(train, np.flatnonzero(~is_held)), chosen(train, np.flatnonzero(is_held))


def hold_out(train: Part, holdout: int) -> tuple[Part, Part]:
    """Returns all but `holdout` images, and `holdout` images with the same share of each class.

    The shares differ by less than one image. Raises InputError if no training images remain, or if
    only reading tells the labels.
    """
    labels = _labels(train, "data.holdout_stratified")
    count = len(labels)
    if holdout >= count:
        raise InputError(
            f"cannot hold out {holdout:,} of {counted(count, 'training image')}: lower data.holdout"
        )
    is_held = np.empty(count, bool)
    # Evenly spaced positions, class after class.
    is_held[by_class(labels)] = np.diff(np.arange(count + 1) * holdout // count) == 1
    return chosen(train, np.flatnonzero(~is_held)), chosen(train, np.flatnonzero(is_held))


def _labels(train: Part, key: str) -> np.ndarray:
    if train.labels is None:
        raise InputError(
            f"{key} needs the label of every picture, which a copy prepared by TFDS does not list: "
            "set data.directory to the published archives or to class directories"
        )
    if train.labels.ndim == 2:  # Each combination of labels is a class.
        return np.unique(train.labels, axis=0, return_inverse=True)[1].ravel()
    return train.labels
