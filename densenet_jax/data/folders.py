"""Finds pictures in trees of folders, a folder for each class.

`train/CLASS/...` and `val/CLASS/...`, as in fb.resnet.torch and in most copies of ImageNet; or
`CLASS/...`, if nobody has divided the pictures. All pictures below a class folder are of its class.
"""

import collections
import itertools
import logging
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from densenet_jax.data.archives import naming
from densenet_jax.data.encoded import Pieces
from densenet_jax.data.pictures import endings
from densenet_jax.errors import InputError, counted

# Names of the folders of a divided set, in lower case; the first that is there is read. "Test Set",
# "train_data" and so on are the same to them.
_TRAIN = ("train", "training")
_TEST = ("val", "valid", "validation", "test", "testing")
_AFTER_NAME = re.compile("[ _-]?(set|data|images)?")
DIVIDED = (
    f"a folder that holds {_TRAIN[0]} and {_TEST[0]} (or {', '.join(_TEST[1:])}), each with a "
    "folder of pictures for each class"
)
LAYOUT = f"{DIVIDED}; or those folders themselves"
_TEST_EVERY = 5  # Every fifth picture of a class tests, where nobody has divided them.
_SYSTEM_FILES = ("__macosx", "thumbs.db", "desktop.ini", "@eadir")
# Kinds of files that are skipped, beside the endings of others.
_SYSTEM, _SPECIAL, _OUTSIDE = "hidden or system", "broken or special", "outside class folders"
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

    Raises InputError if there are none, or of one class only, or some for testing of a class that
    has none to train on.
    """
    if part_folders := divided(folder):
        parts = {part: class_folders(path) for part, path in part_folders.items()}
    else:
        found = class_folders(folder)
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
            class_folder = (part_folders["test"] if part_folders else folder) / name
            raise InputError(
                f"{class_folder} is of a class that has no pictures to train on: remove it, or add "
                "some"
            )
    if len(classes) == 1:
        raise InputError(
            f"{folder} has one class only, {classes[0]}: set data.directory to the folder that "
            "holds the class folders"
        )
    return Tree(folder, classes, parts)


def divided(folder: pathlib.Path, needs_train: bool = True) -> dict[str, pathlib.Path] | None:
    """Returns the folders of "train" and "test" in `folder`, or None if it is not divided.

    Logs what lies beside them and is not read.

    Args:
      needs_train: whether there must be a folder of "train"; else it is left out.

    Raises InputError if only one of the two is there.
    """
    beside = _entries(folder)
    parts = {"train": _first_named(_TRAIN, beside), "test": _first_named(_TEST, beside)}
    # One such name alone may be that of a class, unless the folder holds class folders.
    if not all(parts.values()) and not any(
        part and any(path.is_dir() for path in _entries(part)) for part in parts.values()
    ):
        return None
    if not needs_train:
        del parts["train"]
    for part, path in parts.items():
        if path is None:
            first, *others = _TRAIN if part == "train" else _TEST
            raise InputError(
                f"Missing {folder / first}/CLASS/*.JPEG (or {', '.join(others)} instead of "
                f"{first}): {folder} has {_some(beside)}"
            )
    if unread := [path for path in beside if path not in parts.values()]:
        read = " and ".join(path.name for path in parts.values())
        _log(f"{folder}: reads {read}, not {_some(unread)}")
    return parts


class Labelled(NamedTuple):
    """Pictures, their labels, and the class names in the order of labels."""

    paths: list[pathlib.Path]
    labels: np.ndarray
    classes: Sequence[str]


def labelled(folder: pathlib.Path, classes: Sequence[str] | int) -> Labelled:
    """Finds the pictures `folder/CLASS/...`, or those for testing in a divided folder.

    Args:
      classes: names of the class folders, in the order of labels, of which some may be missing; or
        how many classes there are. Labels are then by name, sorted as text, as in training, and the
        folders of all classes must be there; a folder may be empty.

    Raises:
      InputError: there are no pictures, or folders of other classes, or too few or too many.
    """
    if part_folders := divided(folder, needs_train=False):
        folder = part_folders["test"]
    found = class_folders(folder, "there must be a folder of pictures for each class")
    if isinstance(classes, int):
        if len(found) != classes:
            remedy = "make an empty folder for each missing class"
            if len(found) > classes:
                remedy = "remove the others"
            raise InputError(
                f"{folder} has {counted(len(found), 'class folder')} ({_some(list(found))}), but "
                f"the network has {counted(classes, 'class')}: {remedy}. Labels follow the folder "
                "names sorted as text, as in training."
            )
        classes = list(found)
    label_of = {name: label for label, name in enumerate(classes)}
    if others := [name for name, inside in found.items() if inside and name not in label_of]:
        raise InputError(
            f"{folder} has folders that are named after none of the network's classes, such as "
            f"{others[0]} ({len(others)} in all); the names are {_some(classes)}"
        )
    paths = [pathlib.Path(path) for name in found for path in found[name]]
    labels = [label_of[name] for name in found for _ in found[name]]
    return Labelled(paths, np.array(labels), classes)


def pieces(folder: pathlib.Path, classes: Classes, label_of: Mapping[str, int]) -> Pieces:
    """Returns the pictures of `classes`, which lie below `folder`, with labels from `label_of`."""
    # `relative_to` would take minutes of a million files.
    start = len(str(folder / "x")) - 1
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
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: {wanted}.")
    skipped = collections.Counter()
    with naming(folder):
        classes = {}
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if is_system_file(entry.name):
                skipped[_SYSTEM] += 1
            elif entry.is_dir():
                classes[entry.name] = list(_pictures_below(entry.path, skipped))
            else:
                skipped[_OUTSIDE if entry.is_file() else _SPECIAL] += 1
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
            skipped[_SYSTEM] += 1
        elif entry.is_dir():
            yield from _pictures_below(entry.path, skipped)
        elif not entry.is_file():
            skipped[_SPECIAL] += 1
        elif dot + ending in endings():
            yield entry.path
        else:
            skipped[dot + ending if dot else "without ending"] += 1


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns what lies in `folder`, sorted by name, without hidden and system files."""
    with naming(folder):
        found = folder.iterdir() if folder.is_dir() else []
        return sorted(path for path in found if not is_system_file(path.name))


def _first_named(names: Sequence[str], paths: Sequence[pathlib.Path]) -> pathlib.Path | None:
    """Returns the folder that has the first possible one of `names`, upper or lower case."""
    for name in names:
        for path in paths:
            found = path.name.lower()
            rest = found.removeprefix(name)
            if found.startswith(name) and _AFTER_NAME.fullmatch(rest) and path.is_dir():
                return path
    return None


def is_system_file(name: str) -> bool:
    """Whether an operating system or an editor made the file or folder: it is never data."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def _log_skipped(folder: pathlib.Path, skipped: collections.Counter) -> None:
    if skipped:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))
        _log(f"{folder}: skipped files: {counts}")


def _some(names: Sequence[str | pathlib.Path]) -> str:
    more = len(names) - _NAMES_IN_MESSAGE
    shown = ", ".join(pathlib.PurePath(name).name for name in names[:_NAMES_IN_MESSAGE])
    return f"{shown} and {more} more" if more > 0 else shown


def _log(sentence: str) -> None:
    logging.getLogger("densenet_jax").warning(sentence)
