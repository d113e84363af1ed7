"""Finds the pictures of ImageNet (ILSVRC 2012) in archives, directories or a copy for TFDS.

All forms give the pictures in the same order: the order of TensorFlow Datasets (TFDS).
"""

import importlib.resources
import pathlib
import tarfile
from collections.abc import Iterator, Sequence

import numpy as np

from densenet_jax.data import folders, tfds_copy
from densenet_jax.data.archives import naming_file
from densenet_jax.data.encoded import Pictures, Pieces
from densenet_jax.data.facts import FACTS
from densenet_jax.data.reader import Found, Reader, Request
from densenet_jax.data.tfds_copy import progress
from densenet_jax.errors import InputError
from densenet_jax.files import open_regular

TFDS_NAME = "imagenet2012"
SPLITS = {"train": "train", "test": "validation"}  # The names of the parts in TFDS.
ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "test": "ILSVRC2012_img_val.tar"}
LAYOUT = (
    f"the directory with {' and '.join(ARCHIVES.values())} from https://image-net.org, or with a "
    f"copy prepared by launch.prepare or TFDS ({TFDS_NAME}), or {folders.DIVIDED}"
)


def classes() -> dict[str, str]:
    """Returns the names of the 1000 classes by WordNet identifier, in the order of labels."""
    text = importlib.resources.files("densenet_jax").joinpath("imagenet_classes.txt").read_text()
    return dict(line.split(" ", 1) for line in text.splitlines())


def find(directory: pathlib.Path) -> dict[str, Pictures]:
    """Finds the pictures of "train" and "test" in `directory`, without reading them.

    A copy for TFDS takes precedence, because it is the fastest; then archives, then directories.

    Raises InputError if there is none of the three, or if it is damaged or incomplete.
    """
    if copy := tfds_copy.find(directory, TFDS_NAME):
        return {part: tfds_copy.pictures(copy, split) for part, split in SPLITS.items()}
    if any((directory / archive).exists() for archive in ARCHIVES.values()):
        parts = {part: _in_archive(directory, part) for part in SPLITS}
    elif part_directories := folders.divided(directory):
        parts = {part: _in_directories(directory, path) for part, path in part_directories.items()}
    else:
        raise InputError(f"there is no ImageNet in {directory}: set data.directory to {LAYOUT}")
    return {part: pictures.in_stored_order(SPLITS[part]) for part, pictures in parts.items()}


def _in_archive(directory: pathlib.Path, part: str) -> Pieces:
    path = directory / ARCHIVES[part]
    with naming_file(path):
        members = [*_train_members(path)] if part == "train" else [*_members(path)]
        if not members:
            raise ValueError("it contains no pictures")
        names, offsets, lengths = zip(*members, strict=True)
        labels = _train_labels(names) if part == "train" else _validation_labels(names)
    which = np.zeros(len(names), int)
    return Pieces(
        directory, [path.name], names, labels, which, np.array(offsets), np.array(lengths)
    )


def _members(path: pathlib.Path, start: int = 0) -> Iterator[tuple[str, int, int]]:
    """Yields name, offset and length of the files in the archive at byte `start` of `path`."""
    with open_regular(path) as file:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                name = pathlib.PurePath(member.name).name
                if member.isfile() and not folders.is_system_file(name):
                    yield name, member.offset_data, member.size


def _train_members(path: pathlib.Path) -> Iterator[tuple[str, int, int]]:
    """Yields the members of the archives in an archive, which has one archive for each class."""
    archives = list(_members(path))
    for _, start, _ in progress(archives, f"listing {path.name}", len(archives)):
        yield from _members(path, start)


def _train_labels(names: Sequence[str]) -> np.ndarray:
    """Returns the labels of pictures with names such as n01440764_10026.JPEG."""
    label_of = _labels_by_identifier()
    for name in names:
        if name.split("_")[0] not in label_of:
            raise ValueError(f"{name} is not named after a class of ImageNet")
    return np.array([label_of[name.split("_")[0]] for name in names], np.int32)


def _validation_labels(names: Sequence[str]) -> np.ndarray:
    """Returns the labels of pictures with names such as ILSVRC2012_val_00000001.JPEG.

    TFDS contains the list of these labels.
    """
    package = importlib.resources.files("tensorflow_datasets")
    listed = package.joinpath("datasets/imagenet2012/validation_labels.txt").read_text().split()
    label_of = _labels_by_identifier()
    identifiers = {f"ILSVRC2012_val_{i + 1:08d}.JPEG": name for i, name in enumerate(listed)}
    for name in names:
        if name not in identifiers:
            raise ValueError(f"{name} is not a validation picture of ImageNet")
    return np.array([label_of[identifiers[name]] for name in names], np.int32)


def _in_directories(directory: pathlib.Path, part_directory: pathlib.Path) -> Pieces:
    found, label_of = folders.class_directories(part_directory), _labels_by_identifier()
    if others := [name for name in found if found[name] and name not in label_of]:
        raise InputError(
            f"{part_directory} has directories that are not named after ImageNet's classes, such "
            f"as {others[0]} ({len(others)} in all): use names such as n01440764"
        )
    return folders.pieces(directory, found, label_of)


def _labels_by_identifier() -> dict[str, int]:
    return {identifier: label for label, identifier in enumerate(classes())}


def _read(request: Request) -> Found:
    return Found(FACTS["imagenet"], find(request.directory))


IMAGENET = Reader(_read, needs=LAYOUT)
