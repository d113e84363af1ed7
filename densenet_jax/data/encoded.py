"""Pictures as they lie in files, encoded: found by number, and read one at a time."""

import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from densenet_jax.files import read_regular

MAX_PICTURE_BYTES = 2**30  # Of an encoded picture; MAX_PIXELS uncompressed pixels take 0.5 GB.
_TO_THE_END = -1


class Encoded(NamedTuple):
    """A picture: the bytes of a JPEG or another format, its label, and the name of its file."""

    data: bytes
    label: int
    file_name: str


class Pictures(Protocol):
    """The pictures of a split."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Encoded: ...

    def name(self, index: int) -> str:
        """Where a picture lies, for messages."""


class Pieces:
    """Pictures that are files, or pieces of files, such as the members of a tar archive."""

    def __init__(
        self,
        folder: pathlib.Path,
        files: Sequence[str],
        names: Sequence[str],
        labels: np.ndarray,
        which: np.ndarray | None = None,
        offsets: np.ndarray | None = None,
        lengths: np.ndarray | None = None,
    ):
        """
        Args:
          folder: where the files lie.
          files: names of files in it.
          names: of the pictures.
          labels: of the pictures.
          which: the file of each picture; by default it has one of its own.
          offsets, lengths: where in its file each picture lies, in bytes; by default it is all.
        """
        count = len(names)
        # A million names as one array travel to worker processes in no time.
        self._folder, self._files = folder, _as_bytes(files)
        self.names, self.labels = _as_bytes(names), np.asarray(labels, np.int32)
        self._which = np.arange(count) if which is None else np.asarray(which)
        self._offsets = np.zeros(count, int) if offsets is None else np.asarray(offsets)
        self._lengths = np.full(count, _TO_THE_END) if lengths is None else np.asarray(lengths)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Encoded:
        place = int(self._offsets[index]), int(self._lengths[index])
        data = read_regular(self._file(index), MAX_PICTURE_BYTES, *place)
        return Encoded(data, int(self.labels[index]), os.fsdecode(self.names[index]))

    def name(self, index: int) -> str:
        path = self._file(index)
        if self._lengths[index] == _TO_THE_END:
            return str(path)
        return f"{os.fsdecode(self.names[index])} in {path}"

    def in_stored_order(self, split: str) -> "Pieces":
        """In the order in which TensorFlow Datasets stores them: by the hashes of their names."""
        salt = split.encode()
        keys = [hashlib.md5(salt + n, usedforsecurity=False).digest() for n in self.names.tolist()]
        order = np.array(sorted(range(len(self)), key=keys.__getitem__), int)
        per_picture = (self._which, self._offsets, self._lengths)
        return Pieces(
            self._folder,
            [os.fsdecode(file) for file in self._files],
            [os.fsdecode(name) for name in self.names[order]],
            self.labels[order],
            *(array[order] for array in per_picture),
        )

    def _file(self, index: int) -> pathlib.Path:
        return self._folder / os.fsdecode(self._files[self._which[index]])


class Range:
    """The pictures from `start` to before `stop` of others."""

    def __init__(self, pictures: Pictures, start: int, stop: int):
        self._pictures, self._start, self._stop = pictures, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, index: int) -> Encoded:
        return self._pictures[self._start + index]

    def name(self, index: int) -> str:
        return self._pictures.name(self._start + index)


def _as_bytes(names: Sequence[str]) -> np.ndarray:
    return np.array([os.fsencode(name) for name in names], bytes)
