"""Checks and reads published files of image sets, for the readers of all formats.

The files may come from anywhere. Nothing is unpacked to disk, no code in a file runs, and sizes
are checked before memory is allocated. All errors of parsers become InputErrors that name the file.
"""

import contextlib
import gzip
import hashlib
import io
import pathlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from densenet_jax.errors import InputError, UnsupportedFile, counted
from densenet_jax.files import open_regular

MAX_BYTES = 2**28  # One unpacked file or archive; the largest official one has 186 MB.

# Name, size in bytes, and SHA-256 (MD5 if it has 32 digits) of the official files. The idx files
# are listed unzipped, because copies of them differ in their gzip headers.
_OFFICIAL_FILES = """\
cifar-10-binary.tar.gz 170052171 c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd
cifar-10-python.tar.gz 170498071 c58f30108f718f92721af3b95e74349a
cifar-100-binary.tar.gz 168513733 58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec
cifar-100-python.tar.gz 169001437 eb9058c3a382ffc7106e4002c42a8d85
train_32x32.mat 182040794 435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8
test_32x32.mat 64275384 cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b
extra_32x32.mat 1329278602 a133a4beb38a00fcdda90c9489e0c04f900b660ce8a316a5e854838379a71eb3
train-images-idx3-ubyte 47040016 c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888
train-labels-idx1-ubyte 60008 bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9
t10k-images-idx3-ubyte 7840016 5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b
t10k-labels-idx1-ubyte 10008 0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34
"""
_OFFICIAL = {name: rest for name, *rest in map(str.split, _OFFICIAL_FILES.splitlines())}


class Piece(NamedTuple):
    """The unchecked content of a file: images `[N, H, W, C]` and integer labels `[N]`.

    Attributes:
      source: names the file in messages.
    """

    source: str
    images: np.ndarray
    labels: np.ndarray


@contextlib.contextmanager
def naming_file(source: object) -> Iterator[None]:
    """Turns any error of a parser into an InputError that names `source`."""
    try:
        yield
    except (InputError, ImportError, MemoryError):
        raise
    except UnsupportedFile as error:
        raise InputError(f"{source} {error}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            path = error.filename or source
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{source} is damaged or has the wrong format ({reason}): replace it"
        ) from error


def whole_numbers(values: Any, what: str) -> np.ndarray:
    """Returns labels as an array `[N]` of integers.

    Args:
      values: a list, a tuple, or an array `[N]`, `[N, 1]` or `[1, N]`. Floats with integer values
        are accepted, because MATLAB stores integers as floats.
      what: names the labels in the message.

    Raises UnsupportedFile if `values` is anything else.
    """
    if isinstance(values, list | tuple):
        # isinstance would accept bool, which is a subclass of int.
        if not all(type(value) is int or isinstance(value, np.integer) for value in values):
            raise UnsupportedFile(f"has {what} that are not all integers")
        return np.array(values, np.int64)
    if not isinstance(values, np.ndarray):
        raise UnsupportedFile(
            f"has {what} in a {type(values).__name__} instead of a list or an array"
        )
    if values.dtype.kind not in "iuf":
        raise UnsupportedFile(f"has {what} of type {values.dtype} instead of integers")
    if values.size != max(values.shape, default=0):
        raise UnsupportedFile(f"has {what} of shape {values.shape} instead of (N,)")
    if values.dtype.kind == "f":
        if not np.all((values == np.trunc(values)) & (np.abs(values) < 2**31)):
            raise UnsupportedFile(f"has {what} that are not all integers")
        values = values.astype(np.int64)
    return values.ravel()


def check_digest(name: str, size: int, file: BinaryIO) -> None:
    """Raises ValueError for a file that has the size of the official one but not its digest."""
    official_size, digest = _OFFICIAL.get(name, ("", ""))
    if str(size) == official_size:
        function = "md5" if len(digest) == 32 else "sha256"
        # The stubs of BinaryIO lack `readinto`.
        found = hashlib.file_digest(file, function)  # type: ignore[arg-type]
        if found.hexdigest() != digest:
            raise ValueError(f"it has the size of the official file, but another {function} digest")
        file.seek(0)


def read_file(path: pathlib.Path) -> bytes:
    """Returns the content of a file, unzipped if its name ends in .gz.

    Raises InputError if the content has more than MAX_BYTES bytes, or if the file is damaged.
    """
    size = path.stat().st_size
    with naming_file(path), open_regular(path) as file:
        check_digest(path.name, size, file)
        is_zipped = path.suffix == ".gz"
        data = (gzip.GzipFile(fileobj=file) if is_zipped else file).read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it holds more than {counted(MAX_BYTES, 'byte')}")
        if is_zipped:
            check_digest(path.stem, len(data), io.BytesIO(data))
        return data
