"""Encoded pictures in files: listed first, and read one at a time by their index."""

import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from densenet_jax.files import read_regular

MAX_PICTURE_BYTES = 2**30  # An encoded picture; MAX_PIXELS uncompressed pixels take 0.5 GB.
_WHOLE_FILE = -1  # In place of a length.


class Encoded(NamedTuple):
    """A picture: the bytes of a JPEG or another format, the label, and the name of the file.

    The label of a set with several labels per picture is an array `[labels]`.
    """

    data: bytes
    label: int | np.ndarray
    file_name: str


class Pictures(Protocol):
    """The pictures of a split.

    Attributes:
      labels: labels of all pictures; None if only reading the pictures tells.
    """

    @property
    def labels(self) -> np.ndarray | None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Encoded: ...

    def name(self, index: int) -> str:
        """Returns the file of a picture, for messages."""


class Pieces:
    """Pictures in files, or in pieces of files, such as the members of a tar archive."""

    def __init__(
        self,
        directory: pathlib.Path,
        files: Sequence[str],
        names: Sequence[str],
        labels: np.ndarray,
        which: np.ndarray | None = None,
        offsets: np.ndarray | None = None,
        lengths: np.ndarray | None = None,
    ):
        """Lists the pictures.

        Args:
          directory: directory of the files.
          files: paths of the files, relative to `directory`.
          names: names of the pictures.
          labels: labels of the pictures, `[N]` or `[N, labels]`.
          which: index in `files` for each picture; None: each picture has a separate file.
          offsets, lengths: position of each picture in its file, in bytes; None: the whole file.
        """
        count = len(names)
        # One array of a million names is pickled for worker processes much faster than a list.
        self._directory, self._files = directory, _as_bytes(files)
        self.names, self.labels = _as_bytes(names), np.asarray(labels, np.int32)
        self._which = np.arange(count) if which is None else np.asarray(which)
        self._offsets = np.zeros(count, int) if offsets is None else np.asarray(offsets)
        self._lengths = np.full(count, _WHOLE_FILE) if lengths is None else np.asarray(lengths)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Encoded:
        offset, length = int(self._offsets[index]), int(self._lengths[index])
        data = read_regular(self._file(index), MAX_PICTURE_BYTES, offset, length)
        return Encoded(data, self.labels[index], os.fsdecode(self.names[index]))

    def name(self, index: int) -> str:
        path = self._file(index)
        if self._lengths[index] == _WHOLE_FILE:
            return str(path)
        return f"{os.fsdecode(self.names[index])} in {path}"

    def in_stored_order(self, split: str) -> "Pieces":
        """Returns the pictures in the order of TensorFlow Datasets: by hashes of their names."""
        salt = split.encode()
        keys = [hashlib.md5(salt + n, usedforsecurity=False).digest() for n in self.names.tolist()]
        order = np.array(sorted(range(len(self)), key=keys.__getitem__), int)
        per_picture = (self._which, self._offsets, self._lengths)
        return Pieces(
            self._directory,
            [os.fsdecode(file) for file in self._files],
            [os.fsdecode(name) for name in self.names[order]],
            self.labels[order],
            *(array[order] for array in per_picture),
        )

    def _file(self, index: int) -> pathlib.Path:
        return self._directory / os.fsdecode(self._files[self._which[index]])


class Range:
    """The pictures from `start` up to, not including, `stop` of other pictures."""

    def __init__(self, pictures: Pictures, start: int, stop: int):
        self._pictures, self._start, self._stop = pictures, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, index: int) -> Encoded:
        return self._pictures[self._start + index]

    def name(self, index: int) -> str:
        return self._pictures.name(self._start + index)

    @property
    def labels(self) -> np.ndarray | None:
        labels = self._pictures.labels
        return None if labels is None else labels[self._start : self._stop]


class Selection:
    """The pictures at some positions of other pictures."""

    def __init__(self, pictures: Pictures, positions: np.ndarray):
        self._pictures, self._positions = pictures, positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> Encoded:
        return self._pictures[self._positions[index]]

    def name(self, index: int) -> str:
        return self._pictures.name(self._positions[index])

    @property
    def labels(self) -> np.ndarray | None:
        labels = self._pictures.labels
        return None if labels is None else labels[self._positions]


class Unread:
    """Pictures of which only the number is known."""

    labels: None = None

    def __init__(self, count: int):
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Encoded:
        raise LookupError("the set is described and not read: it has no pictures")

    def name(self, index: int) -> str:
        return f"picture {index}"


def _as_bytes(names: Sequence[str]) -> np.ndarray:
    return np.array([os.fsencode(name) for name in names], bytes)
