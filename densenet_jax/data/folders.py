"""Finds pictures in a tree of directories, with one directory for each class.

The tree is divided (`train/CLASS/...` and `val/CLASS/...`), as in fb.resnet.torch and in most
copies of ImageNet, or undivided (`CLASS/...`). All pictures below a class directory belong to its
class.
"""

import collections
import itertools
import logging
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from densenet_jax.data.archives import naming_file
from densenet_jax.data.encoded import Pieces
from densenet_jax.data.pictures import endings
from densenet_jax.errors import InputError, counted

# Names of the directories of a divided set, in lower case. The first that exists is read. Case and
# suffixes are ignored, so "Test Set" is "test", and "train_data" is "train".
TRAIN = ("train", "training")
TEST = ("val", "valid", "validation", "test", "testing")
_SUFFIX = re.compile("[ _-]?(set|data|images)?")
DIVIDED = (
    f"a directory with {TRAIN[0]} and {TEST[0]} (or {', '.join(TEST[1:])}), each with a "
    "directory of pictures for each class"
)
LAYOUT = f"{DIVIDED}; or a directory with the class directories"
TEST_EVERY = 5  # In an undivided set, every fifth picture of a class is a test picture.
_SYSTEM_FILES = ("__macosx", "thumbs.db", "desktop.ini", "@eadir")
# Reasons why files are skipped, in messages. Other files are counted by the ending of the name.
_SYSTEM, _SPECIAL, _OUTSIDE = "hidden or system", "broken or special", "outside class directories"
_NAMES_IN_MESSAGE = 5

# The number of skipped files by reason.
Skipped = collections.Counter[str]
# The paths of the pictures of each class; the classes are in alphabetical order.
Classes = dict[str, list[str]]


class Tree(NamedTuple):
    """The pictures of the parts "train" and "test", and the class names in the order of labels."""

    directory: pathlib.Path
    classes: tuple[str, ...]
    parts: dict[str, Classes]


def find(directory: pathlib.Path, remedy: str = f"set data.directory to {LAYOUT}") -> Tree:
    """Finds the pictures in a divided or undivided `directory`.

    Labels follow the class names, sorted as text. `remedy` ends the messages. Raises InputError if
    there are no pictures, if there is only one class, or if a class has test pictures but no
    training pictures.
    """
    if part_directories := divided(directory):
        parts = {part: class_directories(path, remedy) for part, path in part_directories.items()}
    else:
        found = class_directories(directory, remedy)
        parts = {
            "train": {
                name: [path for i, path in enumerate(paths) if i % TEST_EVERY]
                for name, paths in found.items()
            },
            "test": {name: paths[::TEST_EVERY] for name, paths in found.items()},
        }
    classes = tuple(name for name, paths in parts["train"].items() if paths)
    for name, paths in parts["test"].items():
        if paths and name not in classes:
            class_directory = (part_directories["test"] if part_directories else directory) / name
            raise InputError(
                f"{class_directory} has test pictures of a class without training pictures: remove "
                "it, or add training pictures"
            )
    if len(classes) == 1:
        raise InputError(f"{directory} has only one class, {classes[0]}: {remedy}")
    return Tree(directory, classes, parts)


def divided(directory: pathlib.Path, needs_train: bool = True) -> dict[str, pathlib.Path] | None:
    """Returns the directories of "train" and "test" in `directory`, or None if it is undivided.

    Logs the other entries, which are not read.

    Args:
      needs_train: whether to return and require the directory of "train".

    Raises InputError if only one of the two directories exists.
    """
    entries = _entries(directory)
    by_name = {path.name: path for path in entries if path.is_dir()}
    names = {"train": first_named(TRAIN, by_name), "test": first_named(TEST, by_name)}
    found = {part: by_name[name] if name else None for part, name in names.items()}
    # A class may have the name of one part. Its directory then contains no class directories.
    if not all(found.values()) and not any(
        part and any(path.is_dir() for path in _entries(part)) for part in found.values()
    ):
        return None
    parts = {}
    for part, path in found.items():
        if part == "train" and not needs_train:
            continue
        if path is None:
            first, *others = TRAIN if part == "train" else TEST
            raise InputError(
                f"missing {directory / first}/CLASS/*.JPEG (or {', '.join(others)} instead of "
                f"{first}): {directory} has {some(entries)}"
            )
        parts[part] = path
    if unread := [path for path in entries if path not in parts.values()]:
        read = " and ".join(path.name for path in parts.values())
        log(f"{directory}: reads {read}, not {some(unread)}")
    return parts


class Labelled(NamedTuple):
    """Pictures with their labels, and the class names in the order of labels."""

    paths: list[pathlib.Path]
    labels: np.ndarray
    classes: Sequence[str]


def labelled(directory: pathlib.Path, classes: Sequence[str] | int) -> Labelled:
    """Finds the pictures `directory/CLASS/...`, or the test pictures of a divided directory.

    Args:
      classes: names of the class directories in the order of labels, some of which may be missing;
        or the number of classes. With a number, labels follow the names, sorted as text, as in
        training, and all class directories must exist; some may be empty.

    Raises:
      InputError: there are no pictures, or directories of other classes, or too few or too many.
    """
    if part_directories := divided(directory, needs_train=False):
        directory = part_directories["test"]
    found = class_directories(directory, "add a directory of pictures for each class")
    if isinstance(classes, int):
        if len(found) != classes:
            remedy = "make an empty directory for each missing class"
            if len(found) > classes:
                remedy = "remove the others"
            raise InputError(
                f"{directory} has directories for {counted(len(found), 'class')} "
                f"({some(list(found))}), but the network has {counted(classes, 'class')}: "
                f"{remedy}. Labels follow the directory names, sorted as text, as in training."
            )
        classes = list(found)
    label_of = {name: label for label, name in enumerate(classes)}
    if others := [name for name, inside in found.items() if inside and name not in label_of]:
        raise InputError(
            f"{directory} has directories that are not named after the network's classes, such as "
            f"{others[0]} ({len(others)} in all): use {some(classes)}"
        )
    paths = [pathlib.Path(path) for name in found for path in found[name]]
    labels = [label_of[name] for name in found for _ in found[name]]
    return Labelled(paths, np.array(labels), classes)


def pieces(directory: pathlib.Path, classes: Classes, label_of: Mapping[str, int]) -> Pieces:
    """Returns the pictures of `classes`, all below `directory`, with labels from `label_of`."""
    # `relative_to` would take minutes for a million files.
    start = len(str(directory / "x")) - 1
    paths = list(itertools.chain.from_iterable(classes.values()))
    labels = [label_of[name] for name, inside in classes.items() for _ in inside]
    return Pieces(
        directory,
        [path[start:] for path in paths],
        [path.rpartition(os.sep)[2] for path in paths],
        np.array(labels),
    )


def class_directories(
    directory: pathlib.Path, remedy: str = f"set data.directory to {LAYOUT}"
) -> Classes:
    """Returns the pictures of each class directory in `directory`, and logs the skipped files.

    Args:
      remedy: ends the messages.

    Raises InputError if there are no pictures.
    """
    if not directory.is_dir():
        raise InputError(f"there is no directory {directory}: {remedy}")
    skipped: Skipped = collections.Counter()
    with naming_file(directory):
        classes = {}
        for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
            if is_system_file(entry.name):
                skipped[_SYSTEM] += 1
            elif entry.is_dir():
                classes[entry.name] = list(pictures_below(entry.path, skipped))
            else:
                skipped[_OUTSIDE if entry.is_file() else _SPECIAL] += 1
    _log_skipped(directory, skipped)
    if not any(classes.values()):
        raise InputError(f"missing {directory}/CLASS/*.JPEG: {remedy}")
    if empty := [name for name, paths in classes.items() if not paths]:
        log(f"{directory}: no pictures in class directories {some(empty)}")
    return classes


def below(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns the pictures in `directory` and its subdirectories, and logs the skipped files."""
    skipped: Skipped = collections.Counter()
    with naming_file(directory):
        found = [pathlib.Path(path) for path in pictures_below(str(directory), skipped)]
    _log_skipped(directory, skipped)
    return found


def pictures_below(
    directory: str, skipped: Skipped, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[str]:
    """Yields the paths of pictures in `directory` and its subdirectories; counts other files.

    Args:
      above: device and inode of the directories above, into which a symbolic link may lead back.
    """
    status = pathlib.Path(directory).stat()
    here = status.st_dev, status.st_ino
    if here in above:
        skipped[_SPECIAL] += 1
        return
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        _, dot, ending = entry.name.lower().rpartition(".")
        if is_system_file(entry.name):
            skipped[_SYSTEM] += 1
        elif entry.is_dir():
            yield from pictures_below(entry.path, skipped, above | {here})
        elif not entry.is_file():
            skipped[_SPECIAL] += 1
        elif dot + ending in endings():
            yield entry.path
        else:
            skipped[dot + ending if dot else "without ending"] += 1


def _entries(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns the entries of `directory`, sorted by name, without hidden and system files."""
    with naming_file(directory):
        found = directory.iterdir() if directory.is_dir() else []
        return sorted(path for path in found if not is_system_file(path.name))


def first_named(names: Sequence[str], directories: Iterable[str]) -> str | None:
    """Returns which of `directories` has the earliest of `names`, ignoring case and a suffix."""
    found = sorted(set(directories))
    return next((one for name in names for one in found if is_named(one, [name])), None)


def is_named(directory: str, names: Sequence[str]) -> bool:
    """Returns whether `directory` is one of `names`, ignoring case and a suffix."""
    found = directory.lower()
    return any(
        found.startswith(name) and _SUFFIX.fullmatch(found.removeprefix(name)) for name in names
    )


def is_system_file(name: str) -> bool:
    """Returns whether an operating system or an editor made the file or directory."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def _log_skipped(directory: pathlib.Path, skipped: Skipped) -> None:
    if skipped:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))
        log(f"{directory}: skipped files: {counts}")


def some(names: Sequence[str | pathlib.Path]) -> str:
    more = len(names) - _NAMES_IN_MESSAGE
    shown = ", ".join(pathlib.PurePath(name).name for name in names[:_NAMES_IN_MESSAGE])
    return f"{shown} and {more} more" if more > 0 else shown


def log(message: str) -> None:
    logging.getLogger("densenet_jax").warning(message)
