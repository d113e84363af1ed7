"""Trees of pictures, a folder for each class.

`train/CLASS/*` and `val/CLASS/*`, as in fb.resnet.torch and in most copies of ImageNet; or, of what
nobody has divided, `CLASS/*`.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from densenet_jax.data.encoded import Pieces
from densenet_jax.data.pictures import ENDINGS
from densenet_jax.errors import InputError

DIVIDED = "a folder that holds train and val, each with a folder of pictures for each class"
LAYOUT = f"{DIVIDED}; or those folders themselves"
_TEST_EVERY = 5  # Of the pictures of a class, where nobody has divided them.


class Tree(NamedTuple):
    """The names of classes, in alphabetical order, and the pictures of "train" and "test"."""

    folder: pathlib.Path
    classes: tuple[str, ...]
    files: dict[str, list[pathlib.Path]]


def find(folder: pathlib.Path) -> Tree:
    """The pictures in `folder`, in either form.

    Raises InputError if there are none, or some for testing of a class that has none to train on.
    """
    if (folder / "train").is_dir():
        files = divided(folder, "val" if (folder / "val").is_dir() else "test")
        train, test = files.values()
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


def divided(folder: pathlib.Path, test: str = "val") -> dict[str, list[pathlib.Path]]:
    """The pictures of "train" and "test", in folders of their own. Raises InputError without."""
    return {"train": _list(folder / "train"), "test": _list(folder / test)}


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


def pieces(
    folder: pathlib.Path, files: Sequence[pathlib.Path], label_of: Mapping[str, int]
) -> Pieces:
    """Pictures in `folder`, labelled by the folder each lies in."""
    # `relative_to` would take minutes of a million files.
    start = len(f"{folder}{os.sep}")
    return Pieces(
        folder,
        [str(file)[start:] for file in files],
        [file.name for file in files],
        np.array([label_of[file.parent.name] for file in files]),
    )


def _list(
    folder: pathlib.Path, wanted: str = f"set data.directory to {LAYOUT}"
) -> list[pathlib.Path]:
    classes = sorted(path for path in folder.glob("*") if path.is_dir())
    files = [
        file
        for path in classes
        for file in sorted(path.iterdir())
        if file.name.lower().endswith(ENDINGS)
    ]
    if not files:
        raise InputError(f"Missing {folder}/CLASS/*.JPEG: {wanted}.")
    return files


def _by_class(files: list[pathlib.Path]) -> dict[str, list[pathlib.Path]]:
    classes = {}
    for file in files:
        classes.setdefault(file.parent.name, []).append(file)
    return classes
