"""The data set "folder": a user's pictures, in class directories or listed with their labels."""

import collections
import dataclasses
import pathlib

import numpy as np

from densenet_jax.data import folders, label_files
from densenet_jax.data.encoded import Pieces
from densenet_jax.data.facts import FACTS
from densenet_jax.data.pictures import CentralCrop
from densenet_jax.data.reader import Found, Reader, Request
from densenet_jax.errors import InputError, counted


def _read(request: Request) -> Found:
    """Finds the pictures in `request.directory`, by class directories or by `request.labels`.

    Pictures are normalised as ImageNet's are, for networks that were trained on ImageNet.
    """
    if request.labels:
        classes, parts = _by_label_file(request.directory, request.labels)
    else:
        tree = folders.find(request.directory)
        classes, label_of = tree.classes, {name: label for label, name in enumerate(tree.classes)}
        parts = {
            part: folders.pieces(tree.directory, found, label_of)
            for part, found in tree.parts.items()
        }
    size = request.image_size
    facts = dataclasses.replace(
        FACTS["imagenet"],
        image_shape=(size, size, 3),
        crop=CentralCrop(size, size, "bicubic"),
        num_classes=len(classes),
        sizes={part: len(found) for part, found in parts.items()},
        classes=classes,
        multilabel=bool(request.labels),
    )
    return Found(facts, {part: found.in_stored_order(part) for part, found in parts.items()})


def _by_label_file(
    directory: pathlib.Path, file: pathlib.Path
) -> tuple[tuple[str, ...], dict[str, Pieces]]:
    """Returns the label names and the parts "train" and "test" of the pictures in a label file.

    The directories `train/` and `val/` in the paths divide the pictures, as they do without a label
    file. Otherwise every fifth picture is a test picture. Logs the pictures that are not read.
    """
    paths, names, labels = label_files.read(file, directory)
    is_train, is_test, others = _parts_of(paths, file)
    if others:
        folders.log(
            f"{file}: {counted(len(others), 'picture')} outside the parts that are read: "
            f"{folders.some(others)}"
        )
    found = set(folders.pictures_below(str(directory), collections.Counter()))
    if unlisted := sorted(found.difference(str(directory / path) for path in paths)):
        count = counted(len(unlisted), "picture")
        folders.log(f"{directory}: {count} not in {file.name}: {folders.some(unlisted)}")
    parts = {}
    for part, chosen in (("train", is_train), ("test", is_test)):
        files = [paths[i] for i in np.flatnonzero(chosen)]
        parts[part] = Pieces(directory, files, files, labels[chosen])
    return names, parts


def _parts_of(paths: list[str], file: pathlib.Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns which pictures of a label file are for training, which for testing, and the others.

    Others are in a second directory for testing. Raises InputError if a part is empty, or if only
    some of the pictures are in directories of parts.
    """
    first = [path.partition("/")[0] for path in paths]
    in_part = [folders.is_named(name, folders.TRAIN + folders.TEST) for name in first]
    if not any(in_part):
        is_test = np.arange(len(paths)) % folders.TEST_EVERY == 0
        is_train = ~is_test
    elif not all(in_part):
        raise InputError(
            f"{file} has {paths[in_part.index(True)]} and {paths[in_part.index(False)]}: use paths "
            "in train/ and val/ for all pictures, or for none"
        )
    else:
        train, test = (folders.first_named(names, first) for names in (folders.TRAIN, folders.TEST))
        is_train, is_test = (np.array([d == part for d in first]) for part in (train, test))
    if not (is_train.any() and is_test.any()):
        only, missing = ("training", "val/") if is_train.any() else ("test", "train/")
        raise InputError(f"{file} has only {only} pictures: add lines for pictures in {missing}")
    return is_train, is_test, [paths[i] for i in np.flatnonzero(~(is_train | is_test))]


FOLDER = Reader(_read, needs=folders.LAYOUT)
