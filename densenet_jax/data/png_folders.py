"""Finds published sets as PNG files: a directory for each class, or Kaggle's CIFAR-10."""

import csv
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from densenet_jax.data import folders, png_images
from densenet_jax.data.archives import Piece, naming_file
from densenet_jax.data.class_names import CLASS_NAMES, label_of
from densenet_jax.data.facts import FACTS
from densenet_jax.data.tfds_copy import progress
from densenet_jax.errors import InputError, UnsupportedFile
from densenet_jax.files import read_regular

MAX_PNG_BYTES = 2**20  # One image; 32 x 32 pixels without compression take 3 kB.
MAX_CSV_BYTES = 2**24  # Kaggle's trainLabels.csv has 0.6 MB.
_PART_NAMES = {
    "train": ("train", "training"),
    "extra": ("extra",),
    "test": ("test", "testing"),
}
_KAGGLE_LABELS = "trainLabels.csv"


def find_folders(name: str, directory: pathlib.Path, part: str) -> Callable[[], Piece] | None:
    """Returns a function that reads `PART/CLASS/*.png`, or None if there is no such directory.

    CLASS is the directory that holds the picture. So `train/fish/shark/1.png` is a shark.
    """
    for part_name in _PART_NAMES[part]:
        path = directory / part_name
        if path.is_dir() and _has_directories(path):
            return lambda: _read_folders(name, path, part)
    return None


def _has_directories(path: pathlib.Path) -> bool:
    with os.scandir(path) as entries:  # Much faster than Path.is_dir for Kaggle's 300,000 files.
        return any(entry.is_dir() for entry in entries)


def _read_folders(name: str, path: pathlib.Path, part: str) -> Piece:
    classes = folders.class_directories(path, f"add PNG files of {name}")
    paths = [pathlib.Path(picture) for inside in classes.values() for picture in inside]
    of_directory: dict[str, int | None] = {}
    for picture in paths:
        class_name = picture.parent.name
        if of_directory.setdefault(class_name, label_of(name, class_name)) is None:
            raise InputError(
                f"{picture.parent} is not named after a class of {name}: use names such as "
                f"{CLASS_NAMES[name][0]!r}, or labels from 0 to {FACTS[name].num_classes - 1}"
            )

    # Sorted by class, the last images, which may be held out, would be of one class.
    def key(picture: pathlib.Path) -> bytes:
        relative = picture.relative_to(path).as_posix()
        return hashlib.md5(os.fsencode(f"{part}{relative}"), usedforsecurity=False).digest()

    paths.sort(key=key)
    labels = [of_directory[picture.parent.name] for picture in paths]
    return Piece(str(path), _read_images(name, paths, part), np.array(labels))


def find_kaggle(name: str, directory: pathlib.Path, part: str) -> Callable[[], Piece] | None:
    """Returns a function that reads Kaggle's CIFAR-10, or None if it is not in `directory`.

    Kaggle's set is `train/1.png` and so on, with `trainLabels.csv`. Raises InputError for "test",
    because Kaggle publishes no labels of test images.
    """
    labels = directory / _KAGGLE_LABELS
    if name != "cifar10" or not labels.is_file():
        return None
    if part == "test":
        raise InputError(
            f"{directory} has no labelled test images, because Kaggle publishes none: run "
            "`python -m launch.fetch cifar10` and leave data.directory unset, or add "
            f"{directory / 'test'}/CLASS/*.png"
        )
    return lambda: _read_kaggle(labels)


def _read_kaggle(labels_path: pathlib.Path) -> Piece:
    """Reads the pictures that the table of labels names, in the order of their numbers."""
    label_of_id: dict[int, int] = {}
    with naming_file(labels_path):
        text = read_regular(labels_path, MAX_CSV_BYTES).decode("utf-8-sig")
        header, *rows = list(csv.reader(text.splitlines())) or [[]]
        if header != ["id", "label"]:
            raise UnsupportedFile(f"begins with {','.join(header)!r:.100} instead of 'id,label'")
        for row in filter(None, rows):
            label = label_of("cifar10", row[1]) if len(row) == 2 and row[0].isdecimal() else None
            if label is None:
                raise UnsupportedFile(f"has the row {','.join(row)!r:.100}, which is not ID,CLASS")
            number = int(row[0])
            if label_of_id.setdefault(number, label) != label:
                raise UnsupportedFile(f"gives two labels to the image {number}")
    ids = sorted(label_of_id)
    paths = [labels_path.parent / "train" / f"{number}.png" for number in ids]
    images = _read_images("cifar10", paths, "train")
    return Piece(str(labels_path), images, np.array([label_of_id[number] for number in ids], int))


def _read_images(name: str, paths: Sequence[pathlib.Path], part: str) -> np.ndarray:
    shape = FACTS[name].image_shape
    images = np.empty((len(paths), *shape), np.uint8)
    for i, path in enumerate(progress(paths, f"{name} {part}", len(paths))):
        with naming_file(path):
            images[i] = png_images.decode(read_regular(path, MAX_PNG_BYTES), shape)
    return images
