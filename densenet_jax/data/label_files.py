"""Reads a CSV file that gives several labels to each picture of a directory."""

import csv
import logging
import os
import pathlib
import posixpath
from typing import NamedTuple

import numpy as np

from densenet_jax.data.dataset import UNKNOWN, Dataset
from densenet_jax.data.pictures import endings
from densenet_jax.errors import InputError

LAYOUT = (
    "a header 'path,LABEL,LABEL,...' and a line for each picture, with its path relative to "
    "data.directory and 1, 0 or nothing (unknown) for each label"
)
# Spreadsheets write numbers in several ways.
_VALUES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "": UNKNOWN}


class LabelFile(NamedTuple):
    """Pictures with several labels.

    Attributes:
      paths: paths of the pictures, relative to the directory of the data set.
      names: names of the labels.
      labels: int32 `[N, labels]`: 1, 0 or UNKNOWN.
    """

    paths: list[str]
    names: tuple[str, ...]
    labels: np.ndarray


def read(file: pathlib.Path, directory: pathlib.Path) -> LabelFile:
    """Reads the labels of the pictures in `directory`.

    Raises InputError, with the line, for a file that does not have the `LAYOUT`, for a missing or
    repeated picture, and for values that are no labels.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = list(csv.reader(opened, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot read data.labels {file}: {reason}") from error
    header = [name.strip() for name in rows[0]] if rows else []
    names = tuple(header[1:])
    if header[:1] != ["path"] or not names or len(set(header)) < len(header) or "" in names:
        raise InputError(f"{file} begins with {','.join(header)!r:.200}: it needs {LAYOUT}")
    paths: dict[str, int] = {}
    labels = []
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        path, *words = (word.strip() for word in row)
        path = posixpath.normpath(path)
        if path.split("/")[0] in ("", ".."):
            raise InputError(
                f"line {number} of {file}: {path:.200} is not below data.directory: give paths "
                f"relative to {directory}"
            )
        if len(words) != len(names):
            raise InputError(
                f"line {number} of {file} has {len(words)} labels instead of {len(names)}: give "
                "each label a column, empty if unknown"
            )
        if path in paths:
            raise InputError(
                f"line {number} of {file} repeats {path}, of line {paths[path]}: remove one"
            )
        # Not `Path.is_file`, which raises errors for names that are too long.
        if not os.path.isfile(directory / path):  # noqa: PTH113
            raise InputError(
                f"line {number} of {file}: there is no picture {directory / path!s:.200}"
            )
        if pathlib.PurePath(path).suffix.lower() not in endings():
            raise InputError(
                f"line {number} of {file}: {path} has not the ending of a picture, such as .png"
            )
        paths[path] = number
        labels.append(
            [_value(word, name, number, file) for word, name in zip(words, names, strict=True)]
        )
    if not labels:
        raise InputError(f"{file} has no pictures: it needs {LAYOUT}")
    return LabelFile(list(paths), names, np.array(labels, np.int32))


def check_known(file: str, data: Dataset) -> None:
    """Raises InputError for a label that no training picture has known, and for unknown parts.

    Logs the labels that are the same for all training pictures. Held-out pictures do not train.
    """
    for name, column in zip(data.classes or (), np.asarray(data.train.labels).T, strict=True):
        values = set(column.tolist()) - {UNKNOWN}
        if not values:
            raise InputError(
                f"{file} gives no training picture a known {name}: add labels, or remove the column"
            )
        if len(values) == 1:
            logging.getLogger("densenet_jax").warning(
                "%s: %s is %d for every training picture for which it is known",
                *(file, name, values.pop()),
            )
    for part in ("validation", "test"):
        pictures = getattr(data, part)
        if pictures is not None and (np.asarray(pictures.labels) == UNKNOWN).all():
            raise InputError(f"{file} gives no {part} picture a known label: add labels")


def _value(word: str, name: str, number: int, file: pathlib.Path) -> int:
    if word not in _VALUES:
        raise InputError(
            f"line {number} of {file} has {word!r:.50} for {name}: use 1, 0 or nothing (unknown); "
            "labels are yes or no, and regression is not supported"
        )
    return _VALUES[word]
