"""Reads CIFAR-10 and CIFAR-100 from the binary or the Python form of their archives."""

import io
import pathlib
import pickle
import re
import tarfile
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from densenet_jax import pickles
from densenet_jax.data.archives import Piece, naming_file, read_file, whole_numbers
from densenet_jax.data.published import published_reader
from densenet_jax.errors import UnsupportedFile, counted

_ORIGIN = "https://www.cs.toronto.edu/~kriz/cifar.html"


class _Layout(NamedTuple):
    """The layout of a set in its published files.

    Attributes:
      archives: the archives of the binary and the Python form, each with the directory in it.
      files: names of the files of the Python form, the test file last; the binary form adds .bin.
      label_bytes: number of labels before each image in the binary form.
      label_key: key of the finest labels in the Python form.
    """

    archives: dict[str, str]
    files: tuple[str, ...]
    label_bytes: int
    label_key: str


_LAYOUT10 = _Layout(
    archives={
        "cifar-10-binary.tar.gz": "cifar-10-batches-bin",
        "cifar-10-python.tar.gz": "cifar-10-batches-py",
    },
    files=(*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"),
    label_bytes=1,
    label_key="labels",
)
_LAYOUT100 = _Layout(
    archives={
        "cifar-100-binary.tar.gz": "cifar-100-binary",
        "cifar-100-python.tar.gz": "cifar-100-python",
    },
    files=("train", "test"),
    label_bytes=2,
    label_key="fine_labels",
)


def _read_cifar(layout: _Layout, directory: pathlib.Path) -> dict[str, list[Piece]]:
    """Reads either form of a set. Raises FileNotFoundError if a file is missing."""
    source, files = _find_files(layout, directory)
    pieces = []
    for file_name, data in files.items():
        with naming_file(f"{source} ({file_name})"):
            if file_name.endswith(".bin"):
                images, labels = _decode_binary(data, layout.label_bytes)
            else:
                images, labels = _decode_pickle(data, layout.label_key)
            pieces.append(Piece(f"{source} ({file_name})", images, labels))
    return {"train": pieces[:-1], "test": pieces[-1:]}


def _find_files(layout: _Layout, directory: pathlib.Path) -> tuple[pathlib.Path, dict[str, bytes]]:
    """Returns an archive or a directory with the files of a set, and the content of the files.

    Looks for an archive in `directory`, for the directory it unpacks to, and for the files
    themselves.
    """
    for archive, unpacked in layout.archives.items():
        names = [stem + ".bin" * ("binary" in archive) for stem in layout.files]
        if (directory / archive).is_file():
            return directory / archive, _read_tar(directory / archive, names)
        for source in (directory / unpacked, directory):
            if (source / names[0]).is_file():
                return source, {file_name: read_file(source / file_name) for file_name in names}
    entries = [entry for pair in layout.archives.items() for entry in pair]
    raise FileNotFoundError(None, None, f"{directory / entries[0]} (or {', '.join(entries[1:])})")


def _read_tar(path: pathlib.Path, names: list[str]) -> dict[str, bytes]:
    """Returns the members called `names`, in any directory of a .tar.gz archive."""
    data = read_file(path)
    members = {}
    with naming_file(path), tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            name = pathlib.PurePosixPath(member.name).name
            if name in names and member.isfile():
                if member.size > len(data):  # A sparse member may claim any size.
                    raise ValueError(f"member {member.name} claims {counted(member.size, 'byte')}")
                content = tar.extractfile(member)
                assert content is not None  # Because the member is a file.
                members[name] = content.read()
        missing = [name for name in names if name not in members]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
    return {name: members[name] for name in names}  # The order in the archive may differ.


def _decode_binary(data: bytes, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels. Each image follows its labels, the finest last."""
    length = label_bytes + 3072
    if len(data) % length:
        raise ValueError(
            f"its size, {counted(len(data), 'byte')}, is not a multiple of the {length} of a record"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, length)
    return _as_images(records[:, label_bytes:]), records[:, label_bytes - 1]


def _decode_pickle(data: bytes, label_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and the labels of a pickled dict.

    Raises UnsupportedFile for another layout, and ValueError or EOFError for a damaged pickle.
    """
    pickles.check(io.BytesIO(data))
    batch = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    if not isinstance(batch, dict):
        raise UnsupportedFile(f"holds a {type(batch).__name__} instead of a dict")
    batch = {key.decode() if isinstance(key, bytes) else key: batch[key] for key in batch}
    if not {label_key, "data"} <= batch.keys():
        raise UnsupportedFile(f"has no {label_key} or no data, only {', '.join(map(str, batch))}")
    images, labels = (
        value.array() if isinstance(value, _Array) else value
        for value in (batch["data"], batch[label_key])
    )
    if not isinstance(images, np.ndarray):
        raise UnsupportedFile(f"has a {type(images).__name__} as data instead of an array")
    return _as_images(images), whole_numbers(labels, label_key)


def _as_images(data: np.ndarray) -> np.ndarray:
    """Returns contiguous images `[N, 32, 32, 3]` from rows, planes or pixels of uint8."""
    if data.dtype == np.uint8 and data.shape[1:] in ((3072,), (3, 32, 32)):
        # A row holds three colour planes, one after another.
        return np.ascontiguousarray(data.reshape(len(data), 3, 32, 32).transpose(0, 2, 3, 1))
    if data.dtype == np.uint8 and data.shape[1:] == (32, 32, 3):
        return np.ascontiguousarray(data)
    raise UnsupportedFile(
        f"has data of {data.dtype} {data.shape} instead of uint8 (N, 3072), (N, 3, 32, 32) or "
        "(N, 32, 32, 3)"
    )


class _Dtype:
    """A stand-in for a pickled NumPy dtype that keeps its code, such as "u1", and byte order."""

    def __init__(self, code: str | bytes, *_: object):
        self.code = _text(code)
        self.byte_order: Any = "="  # A string, which `newbyteorder` checks.

    def __setstate__(self, state: tuple) -> None:
        self.byte_order = _text(state[1])

    def dtype(self) -> np.dtype:
        # Other codes name objects and structures.
        if not re.fullmatch(r"b1|[iuf]\d{1,2}", self.code):
            raise UnsupportedFile(f"has an array of type {self.code!r} instead of numbers")
        return np.dtype(self.code).newbyteorder(self.byte_order)


class _Array:
    """A stand-in for a pickled NumPy array that keeps only what the array is made from."""

    def __init__(
        self,
        data: Any = b"",
        dtype: Any = None,
        shape: Any = (0,),
        order: Any = "C",
        axes: Any = None,
    ):
        self.data, self.dtype, self.shape, self.order, self.axes = data, dtype, shape, order, axes

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, is_fortran, self.data = state
        self.order = "F" if is_fortran else "C"

    def array(self) -> np.ndarray:
        dtype = self.dtype.dtype()
        content = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        flat = np.frombuffer(content, dtype)
        if self.order == "K":  # A transposed array: NumPy pickles its axes in stored order.
            return flat.reshape(self.shape).transpose(self.axes)
        return flat.reshape(self.shape, order=self.order)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


# The only globals that a pickled file may refer to, with their stand-ins.
_ADMITTED = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray._reconstruct": lambda *args: _Array(),
    # Python 3 writes these for scalars, arrays in protocol 5, and byte strings in older protocols.
    "numpy.core.multiarray.scalar": lambda dtype, data: _Array(data, dtype, ()).array()[()],
    "numpy.core.numeric._frombuffer": _Array,
    "_codecs.encode": lambda text, encoding: text,
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that admits only the globals in _ADMITTED, so no code from a file can run."""

    def find_class(self, module: str, name: str) -> Any:
        name = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # NumPy 2 renamed it.
        if name not in _ADMITTED:
            raise UnsupportedFile(f"refers to {name}: only arrays, lists and numbers are read")
        return _ADMITTED[name]


CIFAR10 = published_reader("cifar10", _ORIGIN, partial(_read_cifar, _LAYOUT10))
CIFAR100 = published_reader("cifar100", _ORIGIN, partial(_read_cifar, _LAYOUT100))
