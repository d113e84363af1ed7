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
import pickletools
import tarfile
from typing import NamedTuple

import numpy as np

from densenet_jax.errors import InputError, UnsupportedFile

ORIGINS = {
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "cifar100": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "svhn": "http://ufldl.stanford.edu/housenumbers",
    "fashion_mnist": "https://github.com/zalandoresearch/fashion-mnist "
    "or Debian's package dataset-fashion-mnist",
}

MAX_BYTES = 2**28  # of one unpacked file or archive; the largest official one has 186 MB
MAX_OPCODES = 2**21  # of one pickled file; the largest official one has some 200,000
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
    """What one file holds: images uint8 [N, H, W, C] and labels [N], neither compared yet."""

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
    """Turns any error a parser may answer to a damaged `source` into an `InputError` naming it."""
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


def _check_digest(name: str, size: int, file) -> None:
    """Refuses a file that has the size of the official one but not its digest."""
    official_size, digest = _OFFICIAL.get(name, ("", ""))
    if str(size) == official_size:
        function = "md5" if len(digest) == 32 else "sha256"
        if hashlib.file_digest(file, function).hexdigest() != digest:
            raise ValueError(f"it has the size of the official file, but another {function} sum")
        file.seek(0)


def _read_file(path: pathlib.Path) -> bytes:
    """Content of a file, unzipped if its name ends in .gz."""
    size = path.stat().st_size
    with naming(path), path.open("rb") as file:
        _check_digest(path.name, size, file)
        stream = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it holds more than {MAX_BYTES:,} bytes")
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


def _read_idx(path: pathlib.Path, ndim: int) -> np.ndarray:
    """The array of `ndim` axes in an idx file."""
    data = _read_file(path)
    start = 4 + 4 * ndim
    with naming(path):
        if data[:4] != bytes([0, 0, 8, ndim]) or len(data) < start:  # 8 is for uint8
            raise ValueError(f"it does not start like an idx file of {ndim}-d bytes")
        shape = np.frombuffer(data[4:start], ">u4").tolist()
        if math.prod(shape) != len(data) - start:
            raise ValueError(f"its header says {shape}, but {len(data) - start:,} bytes follow")
        return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _read_svhn(folder: pathlib.Path) -> dict[str, list[Piece]]:
    paths = {part: folder / f"{part}_32x32.mat" for part in ("train", "extra", "test")}
    for path in paths.values():
        path.stat()  # tells of a missing file before the long reading of another
    return {part: [_read_mat(path)] for part, path in paths.items()}


def _read_mat(path: pathlib.Path) -> Piece:
    """A file of cropped SVHN: X [32, 32, 3, N] and y [N, 1], where 10 stands for the digit 0."""
    import scipy.io

    with naming(path), path.open("rb") as file:
        _check_digest(path.name, path.stat().st_size, file)
        # The list of contents comes first, because it takes no memory.
        kinds = {key: (shape, kind) for key, shape, kind in scipy.io.whosmat(file)}
        if not {"X", "y"} <= kinds.keys():
            raise ValueError("it has no X or no y")
        shape, kind = kinds["X"]
        if shape[:-1] != (32, 32, 3) or kind != "uint8" or shape[-1] > MAX_SVHN_IMAGES:
            raise ValueError(f"its X is {kind} {shape}")
        content = scipy.io.loadmat(file, variable_names=["X", "y"])
        digits = content["y"].ravel().astype(np.int32)
        if digits.min() < 1 or digits.max() > 10:
            raise ValueError(f"it has labels from {digits.min()} to {digits.max()}")
        images = np.ascontiguousarray(np.moveaxis(content["X"], -1, 0))
        return Piece(str(path), images, digits % 10)


def _read_cifar(name: str, folder: pathlib.Path) -> dict[str, list[Piece]]:
    source, files = _find_cifar(name, folder)
    label_bytes, label_key = (2, "fine_labels") if name == "cifar100" else (1, "labels")
    pieces = []
    for file_name, data in files.items():
        with naming(f"{source} ({file_name})"):
            if file_name.endswith(".bin"):
                rows, labels = _decode_binary(data, label_bytes)
            else:
                rows, labels = _decode_pickle(data, label_key)
            # A row is three colour planes, one after another.
            images = rows.reshape(len(rows), 3, 32, 32).transpose(0, 2, 3, 1)
            pieces.append(Piece(f"{source} ({file_name})", np.ascontiguousarray(images), labels))
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
                    raise ValueError(f"member {member.name} claims {member.size:,} bytes")
                members[name] = tar.extractfile(member).read()
        missing = [name for name in names if name not in members]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
    return {name: members[name] for name in names}  # whatever their order in the archive


def _decode_binary(data: bytes, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [N, 3072] and labels [N]; of the labels before each row, the last is the finest."""
    length = label_bytes + 3072
    if len(data) % length:
        raise ValueError(f"its {len(data):,} bytes are no whole number of {length}-byte records")
    records = np.frombuffer(data, np.uint8).reshape(-1, length)
    return records[:, label_bytes:], records[:, label_bytes - 1]


def _decode_pickle(data: bytes, label_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows [N, 3072] and labels [N] of a pickled dict."""
    # An opcode makes up to some 300 bytes of objects, and one that puts an object under a number
    # makes room for all lower numbers.
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if count > MAX_OPCODES or ("PUT" in opcode.name and argument > MAX_OPCODES):
            raise ValueError("it asks for too much memory")
    batch = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    batch = {key.decode() if isinstance(key, bytes) else key: batch[key] for key in batch}
    if not {label_key, "data"} <= batch.keys():
        raise ValueError(f"it has no {label_key} or no data")
    labels, array = batch[label_key], batch["data"]
    if type(labels) is not list or not all(type(label) is int for label in labels):
        raise ValueError(f"its {label_key} are no list of integers")
    content = array.data.encode("latin1") if isinstance(array.data, str) else array.data
    rows = np.frombuffer(content, np.uint8).reshape(array.shape, order=array.order)
    return rows, np.array(labels, np.int64)


class _Array:
    """Takes the place of a pickled numpy array of bytes; only keeps what it is made from."""

    def __init__(self, data=b"", dtype=None, shape=(0,), order="C"):
        self.data, self.shape, self.order = data, shape, order

    def __setstate__(self, state):
        _, self.shape, _, is_fortran, self.data = state
        self.order = "F" if is_fortran else "C"


class _Dtype:
    """Takes the place of a pickled dtype, and is ignored: only one of bytes fits the sizes."""

    def __init__(self, *args): ...

    __setstate__ = __init__


# All that the pickled files may name, and what takes its place.
_ADMITTED = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray._reconstruct": lambda *args: _Array(),
    # In files saved again by Python 3: arrays in protocol 5; byte strings, as text, in protocol 2.
    "numpy.core.numeric._frombuffer": _Array,
    "_codecs.encode": lambda text, encoding: text,
}


class _Unpickler(pickle.Unpickler):
    """Admits nothing by name but the above, so that no code from a file can run."""

    def find_class(self, module, name):
        name = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # renamed in numpy 2
        if name not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {name}")
        return _ADMITTED[name]
