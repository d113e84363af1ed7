"""Finds pictures in trees of folders, a folder for each class.

`train/CLASS/...` and `val/CLASS/...`, as in fb.resnet.torch and in most copies of ImageNet; or
`CLASS/...`, if nobody has divided the pictures. All pictures below a class folder are of its class.
"""

import collections
import itertools
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from densenet_jax.data.archives import naming
from densenet_jax.data.encoded import Pieces
from densenet_jax.data.pictures import endings
from densenet_jax.errors import InputError

# Names of the folders of a divided set, in lower case; the first that is there is read.
_TRAIN = ("train", "training")
_TEST = ("val", "valid", "validation", "test", "testing")
DIVIDED = (
    f"a folder that holds {_TRAIN[0]} and {_TEST[0]} (or {', '.join(_TEST[1:])}), each with a "
    "folder of pictures for each class"
)
LAYOUT = f"{DIVIDED}; or those folders themselves"
_TEST_EVERY = 5  # Every fifth picture of a class tests, where nobody has divided them.
_SYSTEM_FILES = ("__macosx", "thumbs.db", "desktop.ini", "@eadir")
_NAMES_IN_MESSAGE = 5

# Paths of pictures by class, in alphabetical order of class.
Classes = dict[str, list[str]]


class Tree(NamedTuple):
    """The pictures of "train" and "test"; `classes` in the order of labels."""

    folder: pathlib.Path
    classes: tuple[str, ...]
    parts: dict[str, Classes]


def find(folder: pathlib.Path) -> Tree:
    """Finds the pictures in `folder`, in either form. Labels are by class name, sorted as text.

    Raises InputError if there are none, or some for testing of a class that has none to train on.
    """
    if part_folders := divided(folder):
        parts = {part: class_folders(path) for part, path in part_folders.items()}
    else:
        found = class_folders(folder)
        if len(found) == 1:
            raise InputError(
                f"{folder} has one class only, {_some(list(found))}: set data.directory to the "
                "folder that holds the class folders."
            )
        parts = {
            "train": {
                name: [path for i, path in enumerate(paths) if i % _TEST_EVERY]
                for name, paths in found.items()
            },
            "test": {name: paths[::_TEST_EVERY] for name, paths in found.items()},
        }
    classes = tuple(name for name, paths in parts["train"].items() if paths)
    for name, paths in parts["test"].items():
        if paths and name not in classes:
            class_folder = pathlib.Path(paths[0]).parent
            raise InputError(f"{class_folder} is of a class that has no pictures to train on.")
    return Tree(folder, classes, parts)


def divided(folder: pathlib.Path) -> dict[str, pathlib.Path] | None:
    """Returns the folders of "train" and "test" in `folder`, or None if it is not divided.

    Upper and lower case are alike. Logs the folders beside the two, which are not read.

    Raises InputError if there is only one of the two.
    """
    beside = _folders(folder)
    train, test = (_first_named(names, beside) for names in (_TRAIN, _TEST))
    if train is None and test is None:
        return None
    for path, names in ((train, _TRAIN), (test, _TEST)):
        if path is None:
            others = f" or {', '.join(names[1:])}" if names[1:] else ""
            raise InputError(
                f"Missing {folder / names[0]}/CLASS/*.JPEG (the folder may also be called"
                f"{others}): {folder} has {_some([path.name for path in beside])}."
            )
    if unread := [path.name for path in beside if path not in (train, test)]:
        _log(f"{folder}: {train.name} and {test.name} are read, {_some(unread)} not")
    return {"train": train, "test": test}


def labelled(
    folder: pathlib.Path, classes: Sequence[str] | int
) -> tuple[list[pathlib.Path], np.ndarray]:
    """Finds the pictures `folder/CLASS/...`, or those of `folder/val`, and their labels.

    Args:
      classes: names of the class folders, in the order of labels, of which some may be missing; or
        how many classes there are. Labels are then by name, sorted as text, as in training, and the
        folders of all classes must be there; a folder may be empty.

    Raises:
      InputError: there are no pictures, or folders of other classes, or too few or too many.
    """
    folder = _first_named(_TEST, _folders(folder)) or folder
    found = class_folders(folder, "there must be a folder of pictures for each class")
    if isinstance(classes, int):
        if len(found) != classes:
            raise InputError(
                f"{folder} has {len(found)} class folders, but the network has {classes} classes: "
                "make an empty folder for each missing class. Labels are by folder name, sorted as "
                "text, as in training."
            )
        classes = list(found)
    label_of = {name: label for label, name in enumerate(classes)}
    if others := [name for name, inside in found.items() if inside and name not in label_of]:
        raise InputError(
            f"{folder} has folders that are named after none of the network's classes, such as "
            f"{others[0]} ({len(others)} in all): the names are {', '.join(classes[:3])} and so on."
        )
    paths = [pathlib.Path(path) for name in found for path in found[name]]
    labels = [label_of[name] for name in found for _ in found[name]]
    return paths, np.array(labels)


def pieces(folder: pathlib.Path, classes: Classes, label_of: Mapping[str, int]) -> Pieces:
    """Returns the pictures of `classes`, which lie below `folder`, with labels from `label_of`."""
    # `relative_to` would take minutes of a million files.
    start = len(f"{folder}{os.sep}")
    paths = list(itertools.chain.from_iterable(classes.values()))
    labels = [label_of[name] for name, inside in classes.items() for _ in inside]
    return Pieces(
        folder,
        [path[start:] for path in paths],
        [path.rpartition(os.sep)[2] for path in paths],
        np.array(labels),
    )


def class_folders(folder: pathlib.Path, wanted: str = f"set data.directory to {LAYOUT}") -> Classes:
    """Returns the pictures of each class folder in `folder`; logs what is skipped.

    Raises InputError if there are no pictures at all.
    """
    skipped = collections.Counter()
    with naming(folder):
        inside = sorted(os.scandir(folder), key=lambda entry: entry.name) if folder.exists() else []
        classes = {}
        for entry in inside:
            if is_system_file(entry.name):
                skipped["hidden or system file"] += 1
            elif entry.is_dir():
                classes[entry.name] = list(_pictures_below(entry.path, skipped))
            else:
                skipped["outside class folders"] += 1
    _log_skipped(folder, skipped)
    if not any(classes.values()):
        raise InputError(f"Missing {folder}/CLASS/*.JPEG: {wanted}.")
    if empty := [name for name, paths in classes.items() if not paths]:
        _log(f"{folder}: no pictures in class folders {_some(empty)}")
    return classes


def below(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the pictures in `folder` and in its folders; logs what is skipped."""
    skipped = collections.Counter()
    with naming(folder):
        found = [pathlib.Path(path) for path in _pictures_below(str(folder), skipped)]
    _log_skipped(folder, skipped)
    return found


def _pictures_below(folder: str, skipped: collections.Counter) -> Iterator[str]:
    """Yields the paths of pictures in `folder` and its folders; counts other files by kind."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        _, dot, ending = entry.name.lower().rpartition(".")
        if is_system_file(entry.name):
            skipped["hidden or system file"] += 1
        elif entry.is_dir():
            yield from _pictures_below(entry.path, skipped)
        elif dot + ending in endings():
            yield entry.path
        else:
            skipped[dot + ending if dot else "without ending"] += 1


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders in `folder`, sorted by name, without hidden and system ones."""
    with naming(folder):
        found = folder.iterdir() if folder.is_dir() else []
        return sorted(path for path in found if path.is_dir() and not is_system_file(path.name))


def _first_named(names: Sequence[str], folders: list[pathlib.Path]) -> pathlib.Path | None:
    """Returns the folder of the first of `names` that holds folders: else it may be a class."""
    named = {path.name.lower(): path for path in folders}
    return next((named[name] for name in names if name in named and _folders(named[name])), None)


def is_system_file(name: str) -> bool:
    """Whether an operating system or an editor made the file or folder: it is never data."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def _log_skipped(folder: pathlib.Path, skipped: collections.Counter) -> None:
    if skipped:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))
        _log(f"{folder}: skipped {counts}")


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_IN_MESSAGE
    shown = ", ".join(names[:_NAMES_IN_MESSAGE])
    return f"{shown} and {more} more" if more > 0 else shown


def _log(sentence: str) -> None:
    logging.getLogger("densenet_jax").warning(sentence)
