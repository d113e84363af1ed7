"""Reads the small image sets from the files in which their authors publish them.

The files may come from anywhere: nothing is unpacked to disk, no code in a file is run, sizes are
bounded before memory is taken, and what is wrong with a file becomes an `InputError` that names it.
"""

import contextlib
import gzip
import hashlib
import io
import math
import pathlib
import pickle
import re
import tarfile
from typing import NamedTuple

import numpy as np

from densenet_jax import pickles
from densenet_jax.errors import InputError, UnsupportedFile, counted
from densenet_jax.files import check_regular, open_regular

ORIGINS = {
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "cifar100": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "svhn": "http://ufldl.stanford.edu/housenumbers",
    "fashion_mnist": "https://github.com/zalandoresearch/fashion-mnist "
    "or Debian's package dataset-fashion-mnist",
}

MAX_BYTES = 2**28  # of one unpacked file or archive; the largest official one has 186 MB
MAX_INFLATION = 20  # of the images in a .mat file; those of the official ones shrink by 1.2
MAX_SVHN_IMAGES = 2**20  # of one file; the official "extra" has 531,131

# Name, bytes, and SHA-256 (MD5 where it has 32 digits) of the official files. The idx files are
# taken unzipped, because copies of them differ in their gzip headers.
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

# The two forms of each CIFAR set, archive: folder in it; and the files of the Python form, that for
# testing last. In the binary form their names end in .bin.
_CIFAR_ARCHIVES = {
    "cifar10": {
        "cifar-10-binary.tar.gz": "cifar-10-batches-bin",
        "cifar-10-python.tar.gz": "cifar-10-batches-py",
    },
    "cifar100": {
        "cifar-100-binary.tar.gz": "cifar-100-binary",
        "cifar-100-python.tar.gz": "cifar-100-python",
    },
}
_CIFAR_FILES = {
    "cifar10": [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"],
    "cifar100": ["train", "test"],
}


class Piece(NamedTuple):
    """The content of a file: images [N, H, W, C] and integer labels [N], not yet compared."""

    source: str
    images: np.ndarray
    labels: np.ndarray


def read(name: str, folder: pathlib.Path) -> dict[str, list[Piece]]:
    """The files of a set, by part ("train", "test" and, for svhn, "extra"), in their order."""
    try:
        if name == "fashion_mnist":
            return _read_fashion_mnist(folder)
        if name == "svhn":
            return _read_svhn(folder)
        return _read_cifar(name, folder)
    except OSError as error:
        raise InputError(
            f"Missing {error.filename}: get it from {ORIGINS[name]}, and set data.directory to its "
            "folder or to that of a copy prepared by TFDS."
        ) from error


@contextlib.contextmanager
def naming(source):
    """Turns any error of a parser into an `InputError` that names `source`."""
    try:
        yield
    except (InputError, ImportError, MemoryError):
        raise
    except UnsupportedFile as error:
        raise InputError(f"{source} {error}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            path = error.filename or source
            raise InputError(f"Cannot read {path}: {error.strerror}.") from error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{source} is damaged or not what its name says ({reason}): replace it."
        ) from error


def whole_numbers(values, what: str) -> np.ndarray:
    """Returns labels as an array [N] of integers. Raises UnsupportedFile if they are anything else.

    Args:
      values: a list, a tuple, or an array [N], [N, 1] or [1, N]; MATLAB stores integers as floats.
      what: names the labels in the message.
    """
    if isinstance(values, list | tuple):
        # Not bool, which is a kind of int.
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


def _check_digest(name: str, size: int, file) -> None:
    """Refuses a file that has the size of the official one but not its digest."""
    official_size, digest = _OFFICIAL.get(name, ("", ""))
    if str(size) == official_size:
        function = "md5" if len(digest) == 32 else "sha256"
        if hashlib.file_digest(file, function).hexdigest() != digest:
            raise ValueError(f"it has the size of the official file, but another {function} sum")
        file.seek(0)


def _read_file(path: pathlib.Path) -> bytes:
    """Returns the content of a file, unzipped if its name ends in .gz."""
    size = path.stat().st_size
    with naming(path), open_regular(path) as file:
        _check_digest(path.name, size, file)
        stream = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it holds more than {counted(MAX_BYTES, 'byte')}")
        if path.suffix == ".gz":
            _check_digest(path.stem, len(data), io.BytesIO(data))
        return data


def _read_fashion_mnist(folder: pathlib.Path) -> dict[str, list[Piece]]:
    parts = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        paths = [folder / f"{prefix}-images-idx3-ubyte", folder / f"{prefix}-labels-idx1-ubyte"]
        for i, path in enumerate(paths):
            if not path.is_file():
                paths[i] = path.with_name(f"{path.name}.gz")
        images, labels = _read_idx(paths[0], 3), _read_idx(paths[1], 1)
        parts[part] = [Piece(f"{paths[0]} with {paths[1].name}", images[..., None], labels)]
    return parts


_IDX_TYPES = {8: "uint8", 9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}


def _read_idx(path: pathlib.Path, ndim: int) -> np.ndarray:
    """Returns the uint8 array of `ndim` axes in an idx file."""
    data = _read_file(path)
    start = 4 + 4 * ndim
    with naming(path):
        if len(data) < 8 or data[:2] != bytes(2) or data[2] not in _IDX_TYPES or not data[3]:
            raise ValueError("it does not start like an idx file")
        kind = f"{data[3]}-d {_IDX_TYPES[data[2]]}"
        if kind != f"{ndim}-d uint8":
            raise UnsupportedFile(f"is an idx file of {kind} instead of {ndim}-d uint8: replace it")
        if len(data) < start:
            raise ValueError(f"it ends within its header, after {counted(len(data), 'byte')}")
        shape = np.frombuffer(data[4:start], ">u4").tolist()
        if math.prod(shape) != len(data) - start:
            raise ValueError(
                f"its header says {shape}, but is followed by {counted(len(data) - start, 'byte')}"
            )
        return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _read_svhn(folder: pathlib.Path) -> dict[str, list[Piece]]:
    paths = {part: folder / f"{part}_32x32.mat" for part in ("train", "extra", "test")}
    for path in paths.values():
        check_regular(path)  # before the long reading of another
    return {part: [_read_mat(path)] for part, path in paths.items()}


def _read_mat(path: pathlib.Path) -> Piece:
    """Reads a file of cropped SVHN: X [32, 32, 3, N] and y [N, 1].

    The digit 0 has the label 10, as published, or 0, as some copies have it.
    """
    import scipy.io

    size = path.stat().st_size
    with naming(path), open_regular(path) as file:
        _check_digest(path.name, size, file)
        # The list of contents comes first, because it takes no memory.
        try:
            kinds = {key: (shape, kind) for key, shape, kind in scipy.io.whosmat(file)}
        except NotImplementedError as error:
            raise UnsupportedFile(
                "is in MATLAB's format 7.3: load it in MATLAB and save it again with '-v7'"
            ) from error
        if file.tell() > size:  # SciPy looks for the next variable behind the end.
            raise ValueError("it is cut short")
        if not {"X", "y"} <= kinds.keys():
            raise UnsupportedFile(f"has no X or no y, only {', '.join(kinds) or 'nothing'}")
        shape, kind = kinds["X"]
        if shape[:-1] != (32, 32, 3) or kind != "uint8" or shape[-1] > MAX_SVHN_IMAGES:
            raise UnsupportedFile(
                f"has an X of {kind} {shape} instead of uint8 (32, 32, 3, N), N at most "
                f"{MAX_SVHN_IMAGES:,}"
            )
        if 3072 * shape[-1] > MAX_INFLATION * size:
            raise UnsupportedFile(f"of {size:,} bytes unpacks to {3072 * shape[-1]:,}: replace it")
        shape, kind = kinds["y"]
        if math.prod(shape) > MAX_SVHN_IMAGES:
            raise UnsupportedFile(f"has labels of shape {shape}, more than {MAX_SVHN_IMAGES:,}")
        if not re.fullmatch(r"u?int\d+|single|double", kind):  # Logical ones would load as uint8.
            raise UnsupportedFile(f"has labels of type {kind} instead of integers")
        content = scipy.io.loadmat(file, variable_names=["X", "y"])
        labels = whole_numbers(content["y"], "labels")
        if {0, 10} <= set(labels):
            raise UnsupportedFile(
                "has both labels 0 and 10 for the digit 0: change 0 to 10, or 10 to 0"
            )
        images = np.ascontiguousarray(np.moveaxis(content["X"], -1, 0))
        return Piece(str(path), images, np.where(labels == 10, 0, labels))


def _read_cifar(name: str, folder: pathlib.Path) -> dict[str, list[Piece]]:
    source, files = _find_cifar(name, folder)
    label_bytes, label_key = (2, "fine_labels") if name == "cifar100" else (1, "labels")
    pieces = []
    for file_name, data in files.items():
        with naming(f"{source} ({file_name})"):
            if file_name.endswith(".bin"):
                images, labels = _decode_binary(data, label_bytes)
            else:
                images, labels = _decode_pickle(data, label_key)
            pieces.append(Piece(f"{source} ({file_name})", images, labels))
    return {"train": pieces[:-1], "test": pieces[-1:]}


def _find_cifar(name: str, folder: pathlib.Path) -> tuple[pathlib.Path, dict[str, bytes]]:
    """An archive in `folder`, or its unpacked folder, or `folder` itself; and the files in it."""
    for archive, unpacked in _CIFAR_ARCHIVES[name].items():
        names = [stem + ".bin" * ("binary" in archive) for stem in _CIFAR_FILES[name]]
        if (folder / archive).is_file():
            return folder / archive, _read_tar(folder / archive, names)
        for source in (folder / unpacked, folder):
            if (source / names[0]).is_file():
                return source, {file_name: _read_file(source / file_name) for file_name in names}
    entries = [entry for pair in _CIFAR_ARCHIVES[name].items() for entry in pair]
    raise FileNotFoundError(None, None, f"{folder / entries[0]} (or {', '.join(entries[1:])})")


def _read_tar(path: pathlib.Path, names: list[str]) -> dict[str, bytes]:
    """The members called `names`, in whatever folder, of a .tar.gz archive."""
    data = _read_file(path)
    members = {}
    with naming(path), tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            name = pathlib.PurePosixPath(member.name).name
            if name in names and member.isfile():
                if member.size > len(data):  # a sparse member may claim any size
                    raise ValueError(f"member {member.name} claims {counted(member.size, 'byte')}")
                members[name] = tar.extractfile(member).read()
        missing = [name for name in names if name not in members]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
    return {name: members[name] for name in names}  # whatever their order in the archive


def _decode_binary(data: bytes, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels. Of the labels before each image, the last is the finest."""
    length = label_bytes + 3072
    if len(data) % length:
        raise ValueError(
            f"its size, {counted(len(data), 'byte')}, is not a multiple of the {length} of a record"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, length)
    return _as_images(records[:, label_bytes:]), records[:, label_bytes - 1]


def _decode_pickle(data: bytes, label_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and the labels of a pickled dict."""
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
    """Returns contiguous images [N, 32, 32, 3] from rows, planes or pixels of uint8."""
    if data.dtype == np.uint8 and data.shape[1:] in ((3072,), (3, 32, 32)):
        # A row is three colour planes, one after another.
        return np.ascontiguousarray(data.reshape(len(data), 3, 32, 32).transpose(0, 2, 3, 1))
    if data.dtype == np.uint8 and data.shape[1:] == (32, 32, 3):
        return np.ascontiguousarray(data)
    raise UnsupportedFile(
        f"has data of {data.dtype} {data.shape} instead of uint8 (N, 3072), (N, 3, 32, 32) or "
        "(N, 32, 32, 3)"
    )


class _Dtype:
    """Stands in for a pickled NumPy dtype. Keeps its code, such as "u1", and its byte order."""

    def __init__(self, code, *_):
        self.code, self.byte_order = _text(code), "="

    def __setstate__(self, state):
        self.byte_order = _text(state[1])

    def dtype(self) -> np.dtype:
        # Others are made of objects, or of fields, which have names.
        if not re.fullmatch(r"b1|[iuf]\d{1,2}", self.code):
            raise UnsupportedFile(f"has an array of type {self.code!r} instead of numbers")
        return np.dtype(self.code).newbyteorder(self.byte_order)


class _Array:
    """Stands in for a pickled NumPy array. Only keeps what the array is made from."""

    def __init__(self, data=b"", dtype=None, shape=(0,), order="C", axes=None):
        self.data, self.dtype, self.shape, self.order, self.axes = data, dtype, shape, order, axes

    def __setstate__(self, state):
        _, self.shape, self.dtype, is_fortran, self.data = state
        self.order = "F" if is_fortran else "C"

    def array(self) -> np.ndarray:
        dtype = self.dtype.dtype()
        content = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        flat = np.frombuffer(content, dtype)
        if self.order == "K":  # Of a transposed array, NumPy gives the axes in their stored order.
            return flat.reshape(self.shape).transpose(self.axes)
        return flat.reshape(self.shape, order=self.order)


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else value


# All that the pickled files may name, and what takes its place.
_ADMITTED = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray._reconstruct": lambda *args: _Array(),
    # In files saved again by Python 3: numbers; arrays in protocol 5; byte strings, as text, in
    # older protocols.
    "numpy.core.multiarray.scalar": lambda dtype, data: _Array(data, dtype, ()).array()[()],
    "numpy.core.numeric._frombuffer": _Array,
    "_codecs.encode": lambda text, encoding: text,
}


class _Unpickler(pickle.Unpickler):
    """Admits nothing by name but the above, so that no code from a file can run."""

    def find_class(self, module, name):
        name = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # renamed in numpy 2
        if name not in _ADMITTED:
            raise UnsupportedFile(
                f"asks for {name}: only arrays, lists and numbers are read from it"
            )
        return _ADMITTED[name]
