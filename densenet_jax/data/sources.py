"""The registry of data sets: `load` reads a set by its name.

A set is read from the files its authors publish, read from a copy prepared by TensorFlow Datasets
(TFDS) or in another form, or computed. Readers download nothing; `download.fetch` does. Small sets
are read into memory, in the order of their published files if the form keeps it. Pictures of
ImageNet and of directories are listed; a stream decodes them later.

To add a set, write its facts in `facts.FACTS`, its reader in a module, and an entry in READERS.
"""

import logging
import pathlib
from collections.abc import Mapping

import numpy as np

from densenet_jax.data import (
    cifar,
    digits,
    fashion_mnist,
    folder_set,
    imagenet,
    label_files,
    partition,
    pictures,
    svhn,
    synthetic,
)
from densenet_jax.data.dataset import Dataset, Part, Split, between, placeholder
from densenet_jax.data.encoded import Unread
from densenet_jax.data.facts import FACTS, Facts
from densenet_jax.data.reader import Reader, Request
from densenet_jax.errors import InputError, counted, suggest

READERS = {
    "cifar10": cifar.CIFAR10,
    "cifar100": cifar.CIFAR100,
    "svhn": svhn.SVHN,
    "fashion_mnist": fashion_mnist.FASHION_MNIST,
    "digits": digits.DIGITS,
    "synthetic": synthetic.SYNTHETIC,
    "synthetic_imagenet": synthetic.SYNTHETIC_IMAGENET,
    "imagenet": imagenet.IMAGENET,
    "folder": folder_set.FOLDER,
}


def load(
    name: str,
    directory: str | None = None,
    holdout: int = 0,
    examples: int = 0,
    image_size: int = pictures.SIDE,
    labels: str | None = None,
    folds: int = 0,
    fold: int = 0,
    stratified: bool = False,
) -> Dataset:
    """Reads a set by its name.

    Args:
      name: a name in READERS.
      directory: directory with the published files, or with a copy prepared by TFDS
        (`<tfds name>/<version>/`); see also `other_forms`, `imagenet.LAYOUT` and `folders.LAYOUT`.
        None: the directory of `launch.fetch`, and for `fashion_mnist` that of Debian's package.
        `digits` and the synthetic sets need none.
      holdout: number of training images to move to `validation`: the last images, or for `svhn` a
        random choice with equally many of each class.
      examples: keep only this number of the remaining training images, the first; 0: all.
        A synthetic set grows if `holdout` and `examples` together exceed its 512 training images.
      image_size: side of the images of "folder". Pictures are resized to this short side before
        the crop.
      labels: CSV file with several labels for each picture of "folder", see `label_files.LAYOUT`.
      folds: divide the training images that remain into this number of folds; 0: into none.
      fold: number of the fold, from 0, that becomes `validation`; the others train.
      stratified: choose the held-out images at random, with the same share of each class.

    A well-formed set whose size is not the official one is accepted, with a logged warning.

    Raises:
      InputError: unknown name, missing or damaged files, impossible `holdout`, `examples` or
        `folds`.
    """
    reader = _reader(name)
    multiple = 1 if stratified else reader.holdout_multiple
    if holdout < 0 or holdout % multiple:
        divisible = f" and, for {name}, divisible by {multiple}" if multiple > 1 else ""
        raise InputError(f"data.holdout is {holdout}: it must be 0 or more{divisible}")
    where = pathlib.Path(directory).expanduser() if directory else reader.default_directory()
    if reader.needs and not where:
        raise InputError(f"{name} needs data.directory: {reader.needs}")
    facts, parts = reader.read(
        Request(
            *(where or pathlib.Path(), holdout + examples, image_size, not directory),
            labels=pathlib.Path(labels).expanduser() if labels else None,
        )
    )
    official = _check_sizes(name, facts, parts)
    train, validation = reader.hold_out(parts, 0 if stratified else holdout)
    if stratified:
        train, validation = partition.hold_out(train, holdout)
    if not 0 <= examples <= len(train):
        raise InputError(
            f"data.examples is {examples}, but the training set has "
            f"{counted(len(train), 'image')}: use 0 to {len(train):,}"
        )
    if examples:
        train = between(train, 0, examples)
    if folds:
        train, validation = partition.divide(
            *(train, folds, fold), None if facts.multilabel else facts.classes
        )
    found = _dataset(name, facts, train, parts["test"], validation, official)
    if labels:
        label_files.check_known(labels, found)
    return found


def describe(name: str, least: int = 0) -> Dataset:
    """Returns the official set with placeholders instead of images and labels.

    Args:
      name: a name in READERS.
      least: least number of training images.

    Raises InputError for an unknown name, and for "folder", which has no official set.
    """
    _reader(name)
    if name not in FACTS:
        raise InputError(f"{name} has no official set to plan for: set data.name to imagenet")
    facts = FACTS[name]

    def described(size: int) -> Part:
        if facts.crop:
            return Unread(size)
        images = placeholder((size, *facts.image_shape), np.uint8)
        return Split(images, placeholder((size,), np.int32))

    train = sum(size for part, size in facts.sizes.items() if part != "test")
    return _dataset(
        name, facts, described(max(least, train)), described(facts.sizes["test"]), None, True
    )


def image_shape(name: str, image_size: int) -> tuple[int, int, int]:
    """Returns height, width and channels of a set's images. Raises InputError for unknown names."""
    _reader(name)
    return FACTS[name].image_shape if name in FACTS else (image_size, image_size, 3)


def _reader(name: str) -> Reader:
    if name not in READERS:
        raise InputError(f"there is no data set {name!r}: {suggest(name, tuple(READERS))}")
    return READERS[name]


def _check_sizes(name: str, facts: Facts, parts: Mapping[str, Part]) -> bool:
    """Returns whether the parts have the official sizes; logs a warning if they do not."""
    sizes = {part: len(images) for part, images in parts.items()}
    if sizes == facts.sizes:
        return True
    logging.getLogger("densenet_jax").warning(
        "%s is not the official set: it has %s instead of %s",
        name,
        ", ".join(counted(size, f"{part} image") for part, size in sizes.items()),
        ", ".join(f"{size:,}" for size in facts.sizes.values()),
    )
    return False


def _dataset(
    name: str, facts: Facts, train: Part, test: Part, validation: Part | None, official: bool
) -> Dataset:
    side = min(facts.image_shape[:2])
    return Dataset(
        name=name,
        train=train,
        test=test,
        validation=validation,
        image_shape=facts.image_shape,
        num_classes=facts.num_classes,
        mean=facts.mean,
        std=facts.std,
        crop=facts.crop or pictures.CentralCrop(side, side, "bicubic"),
        white=facts.white,
        classes=facts.classes,
        official=official,
        multilabel=facts.multilabel,
    )
