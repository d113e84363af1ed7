"""Reads Fashion-MNIST from its idx files, plain or gzipped."""

import math
import pathlib

import numpy as np

from densenet_jax.data.archives import Piece, naming_file, read_file
from densenet_jax.data.published import published_reader
from densenet_jax.errors import UnsupportedFile, counted


def _read_fashion_mnist(directory: pathlib.Path) -> dict[str, list[Piece]]:
    """Reads the four files. A plain file takes precedence over a gzipped one."""
    parts = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        paths = [
            directory / f"{prefix}-images-idx3-ubyte",
            directory / f"{prefix}-labels-idx1-ubyte",
        ]
        for i, path in enumerate(paths):
            if not path.is_file():
                paths[i] = path.with_name(f"{path.name}.gz")
        images, labels = _read_idx(paths[0], 3), _read_idx(paths[1], 1)
        parts[part] = [Piece(f"{paths[0]} with {paths[1].name}", images[..., None], labels)]
    return parts


_IDX_TYPES = {8: "uint8", 9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}


def _read_idx(path: pathlib.Path, ndim: int) -> np.ndarray:
    """Returns the uint8 array of `ndim` axes in an idx file."""
    data = read_file(path)
    start = 4 + 4 * ndim
    with naming_file(path):
        if len(data) < 8 or data[:2] != bytes(2) or data[2] not in _IDX_TYPES or not data[3]:
            raise ValueError("it has no header of an idx file")
        kind = f"{data[3]}-d {_IDX_TYPES[data[2]]}"
        if kind != f"{ndim}-d uint8":
            raise UnsupportedFile(f"is an idx file of {kind} instead of {ndim}-d uint8: replace it")
        if len(data) < start:
            raise ValueError(f"it ends in its header, after {counted(len(data), 'byte')}")
        shape = np.frombuffer(data[4:start], ">u4").tolist()
        if math.prod(shape) != len(data) - start:
            raise ValueError(
                f"its header gives shape {shape}, but {counted(len(data) - start, 'byte')} follow"
            )
        return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


FASHION_MNIST = published_reader(
    "fashion_mnist",
    origin="https://github.com/zalandoresearch/fashion-mnist or Debian's package "
    "dataset-fashion-mnist",
    read_files=_read_fashion_mnist,
    packaged_directory="/usr/share/datasets/fashion-mnist",  # Where Debian installs it.
)
