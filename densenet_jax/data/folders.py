"""Trees of pictures, a folder for each class, held in memory.

`train/CLASS/*` and `val/CLASS/*`, as in fb.resnet.torch and in most copies of ImageNet; or, of what
nobody has divided, `CLASS/*`.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import psutil

from densenet_jax.data.archives import Piece
from densenet_jax.data.pictures import ENDINGS, CentralCrop, load
from densenet_jax.errors import InputError

DIVIDED = "a folder that holds train and val, each with a folder of pictures for each class"
LAYOUT = f"{DIVIDED}; or those folders themselves"
_TEST_EVERY = 5  # Of the pictures of a class, where nobody has divided them.


class Tree(NamedTuple):
    """The names of classes, in alphabetical order, and the pictures of "train" and "test"."""

    folder: pathlib.Path
    classes: tuple[str, ...]
    files: dict[str, list[pathlib.Path]]


def find(folder: pathlib.Path, divided: bool = False) -> Tree:
    """The pictures in `folder`; `divided` insists on the first form.

    Raises InputError if there are none, or some for testing of a class that has none to train on.
    """
    if divided or (folder / "train").is_dir():
        train = _list(folder / "train")
        test = _list(folder / ("val" if divided or (folder / "val").is_dir() else "test"))
    else:
        train, test = [], []
        for files in _by_class(_list(folder)).values():
            test += files[::_TEST_EVERY]
            train += [file for i, file in enumerate(files) if i % _TEST_EVERY]
    classes = tuple(sorted(_by_class(train)))
    for name, files in _by_class(test).items():
        if name not in classes:
            raise InputError(f"{files[0].parent} is of a class that has no pictures to train on.")
    return Tree(folder, classes, {"train": train, "test": test})


def labelled(
    folder: pathlib.Path, classes: Sequence[str] | int
) -> tuple[list[pathlib.Path], np.ndarray]:
    """The pictures `folder/CLASS/*`, or of `folder/val` if there is one, and their labels.

    Args:
      classes: the names of their folders, in the order of labels, of which some may be missing; or
        how many there are, named by their numbers from 0, or else all there in alphabetical order.

    Raises:
      InputError: there are no pictures, or folders of other classes.
    """
    folder = folder / "val" if (folder / "val").is_dir() else folder
    files = _list(folder, "there must be a folder of pictures for each class")
    found = sorted(_by_class(files))
    if isinstance(classes, int):
        numbers = [str(label) for label in range(classes)]
        if set(found) <= set(numbers):
            found = numbers
        elif len(found) != classes:
            raise InputError(
                f"{folder} has pictures of {len(found)} classes, but the network knows {classes}."
            )
        classes = found
    if others := [name for name in found if name not in classes]:
        raise InputError(
            f"{folder} has {len(others)} folders that are named after none of the network's "
            f"classes, such as {others[0]}: they are named as in {', '.join(classes[:3])}."
        )
    return files, np.array([classes.index(file.parent.name) for file in files])


def read(tree: Tree, crop: CentralCrop) -> dict[str, list[Piece]]:
    """Both parts, cropped. Raises InputError for damaged pictures, or more than memory holds."""
    _check_memory(tree, crop.size)
    pieces = {}
    for part, files in tree.files.items():
        labels = np.array([tree.classes.index(file.parent.name) for file in files])
        images = np.stack([crop(load(file)) for file in files])
        pieces[part] = [Piece(f"{tree.folder} ({part})", images, labels)]
    return pieces


def _list(
    folder: pathlib.Path, wanted: str = f"set data.directory to {LAYOUT}"
) -> list[pathlib.Path]:
    files = [path for path in sorted(folder.glob("*/*")) if path.suffix.lower() in ENDINGS]
    if not files:
        raise InputError(f"Missing {folder}/CLASS/*.JPEG: {wanted}.")
    return files


def _by_class(files: list[pathlib.Path]) -> dict[str, list[pathlib.Path]]:
    classes = {}
    for file in files:
        classes.setdefault(file.parent.name, []).append(file)
    return classes


def _check_memory(tree: Tree, side: int) -> None:
    pictures = sum(map(len, tree.files.values()))
    needed, available = pictures * side * side * 3, psutil.virtual_memory().available
    if needed > available / 2:
        raise InputError(
            f"{tree.folder} has {pictures:,} pictures, which take {needed / 1e9:,.0f} GB, but "
            f"{available / 1e9:,.0f} GB are free and half of them may be used: use fewer pictures."
        )
