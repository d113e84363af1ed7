"""Reads the files of `torch.save` without PyTorch and without running code from a file.

Such a file holds a pickle and, beside it, the numbers of all tensors in blocks called storages. A
pickle names the functions and classes that build its objects. This module never looks up those
names: it builds dicts and tensors itself, and an inert stand-in replaces every other object.
"""

import functools
import io
import logging
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # The first pickle in a file of torch.save before 1.6.
_SAVE_STATE_DICT = "save model.state_dict() with torch.save instead"
_BIG_ENDIAN = ("its numbers are big-endian", "save it on a little-endian machine")
# Where training scripts put a state dict, the preferred one first: averaged weights come last.
_PLACES = (
    *("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module"),
    *("state_dict_ema", "model_ema", "ema"),
)
_DEEPEST = 3  # Levels of dicts in which a state dict is searched for.
_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
    "UntypedStorage": np.dtype("u1"),
}


class Unreadable(Exception):
    """A file without readable weights; its message is the reason.

    Attributes:
      remedy: what the user can do.
    """

    def __init__(self, reason: str, remedy: str = "download it again"):
        super().__init__(reason)
        self.remedy = remedy


class _Storage(NamedTuple):
    """A block of numbers in the file; `start` counts numbers."""

    key: str
    dtype: np.dtype
    start: int


class _Tensor(NamedTuple):
    """A view of a storage; `offset` and `strides` count numbers, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _StandIn(dict):
    """A replacement for an object of any class, and for the result of any function.

    It keeps its items, because the original may be a dict, and its state, and does nothing.
    """

    state = None
    __hash__ = object.__hash__

    def __new__(cls, *arguments, **keywords):
        return super().__new__(cls)

    def __init__(self, *arguments, **keywords):
        pass

    def __call__(self, *arguments, **keywords):
        return self

    def __setstate__(self, state):
        self.state = state

    def append(self, item):
        pass

    add = extend = append


class _Unpickler(pickle.Unpickler):
    """Builds dicts, tensors and stand-ins.

    Attributes:
      item_sizes: bytes of a number in each storage, by the storage's key.
    """

    def __init__(self, file: io.BufferedIOBase):
        super().__init__(file, encoding="latin1")  # Decodes all strings that Python 2 wrote.
        self.item_sizes = {}

    def find_class(self, module: str, name: str) -> Callable | str:
        """Returns what builds the objects that `module.name` builds.

        A file can set attributes of what it gets. Functions and classes are therefore new each
        time, so that a file cannot change how the next one is read.
        """
        match f"{module}.{name}":
            case "collections.OrderedDict":
                return OrderedDict
            case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2":
                return lambda *arguments: _Tensor(*arguments[:4])
            case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state":
                return lambda tensor, *_: tensor
            case "torch._tensor._rebuild_from_type_v2":
                return lambda build, kind, arguments, state: build(*arguments)
        if module in ("torch", "torch.cuda", "torch.storage") and name in _DTYPES:
            return name
        return type(name, (_StandIn,), {})

    def persistent_load(self, description: tuple) -> object:
        """Returns the storage that `description` names."""
        if description[0] == "module":  # A class and its source code, beside a whole module.
            return description[1]
        _, kind, key, _, _, *view = description
        if kind not in _DTYPES:
            name = getattr(kind, "__name__", kind)
            raise Unreadable(f"it holds numbers of the type {name}", "save them as float32")
        self.item_sizes[key] = _DTYPES[kind].itemsize
        # Old versions of PyTorch stored views of storages: (key, start, size).
        start = view[0][1] if view and view[0] else 0
        return _Storage(key, _DTYPES[kind], start)


def read_zip(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of the state dict in a file of `torch.save` since PyTorch 1.6, by name.

    Raises Unreadable if there is no state dict. bfloat16 becomes float32.
    """
    with zipfile.ZipFile(path) as archive:
        pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = pickled.removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") == b"big":
            raise Unreadable(*_BIG_ENDIAN)
        found = _Unpickler(io.BytesIO(archive.read(pickled))).load()
        # Cached, because many tensors may share a storage.
        content = functools.cache(lambda key: archive.read(f"{root}data/{key}"))
        return _arrays(path, found, content)


def read_legacy(path: Path) -> dict[str, np.ndarray]:
    """Does the same as `read_zip` for a file of `torch.save` before PyTorch 1.6.

    Such a file is a row of pickles, then the storages: the number of their items and the items.
    """
    file = io.BytesIO(path.read_bytes())
    if _Unpickler(file).load() != _LEGACY_MAGIC:
        raise Unreadable("it is a pickle that torch.save did not write", _SAVE_STATE_DICT)
    _version, machine = _Unpickler(file).load(), _Unpickler(file).load()
    if not machine["little_endian"]:
        raise Unreadable(*_BIG_ENDIAN)
    unpickler = _Unpickler(file)
    found = unpickler.load()
    contents = {}
    for key in _Unpickler(file).load():
        # At the end of a file that is cut off, this leaves less than the tensors need.
        count = int.from_bytes(file.read(8), "little")
        contents[key] = file.read(count * unpickler.item_sizes[key])
    return _arrays(path, found, contents.__getitem__)


def _arrays(path: Path, found: object, content: Callable) -> dict[str, np.ndarray]:
    if not isinstance(found, dict):
        kind = type(found).__name__.lstrip("_")
        raise Unreadable(f"it holds a {kind}, no dict of tensors", _SAVE_STATE_DICT)
    state_dicts = dict(_state_dicts(found))
    if not state_dicts:
        raise _without_state_dict(found)
    place, *others = state_dicts
    if others:
        logging.getLogger("densenet_jax").warning(
            "%s: read the weights under %s, not those under %s", path, place, ", ".join(others)
        )
    state_dict = state_dicts[place]
    tensors = {name: value for name, value in state_dict.items() if _is_named_tensor(name, value)}
    if ignored := [str(name) for name in state_dict if name not in tensors]:
        logging.getLogger("densenet_jax").warning(
            "%s: ignored entries that are not named tensors (%d): %s",
            *(path, len(ignored), ", ".join(ignored[:8])),
        )
    return {name: _array(name, tensor, content) for name, tensor in tensors.items()}


def _state_dicts(found: dict, place: str = "", depth: int = 1) -> Iterator[tuple[str, dict]]:
    """Yields the state dicts in `found` and where they are, the preferred one first."""
    inner = [
        state_dict
        for name in _PLACES
        if isinstance(found.get(name), dict) and depth < _DEEPEST
        for state_dict in _state_dicts(found[name], f"{place}.{name}".lstrip("."), depth + 1)
    ]
    # A checkpoint may have a tensor of its own beside the state dict: the best accuracy.
    if not inner and any(_is_named_tensor(name, value) for name, value in found.items()):
        inner = [(place, found)]
    yield from inner


def _is_named_tensor(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, _Tensor)


def _without_state_dict(found: dict) -> Unreadable:
    for value in (found, *map(found.get, _PLACES)):
        state = getattr(value, "state", None)
        if isinstance(state, dict) and "_modules" in state:
            reason = f"it holds a whole module, {type(value).__name__}, not a state dict"
            return Unreadable(reason, _SAVE_STATE_DICT)
    entries = ", ".join(map(repr, list(found)[:8])) or "none"
    return Unreadable(f"it holds no dict of tensors; its entries: {entries}", _SAVE_STATE_DICT)


def _array(name: str, tensor: _Tensor, content: Callable[[str], bytes]) -> np.ndarray:
    storage, size = tensor.storage, tensor.storage.dtype.itemsize
    stored = content(storage.key)
    first = storage.start + tensor.offset
    last = first + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    # NumPy's own check of these bounds could overflow.
    if min([first, *tensor.strides]) < 0 or (
        0 not in tensor.shape and (last + 1) * size > len(stored)
    ):
        raise Unreadable(f"the numbers of {name} are cut off")
    strides = [size * stride for stride in tensor.strides]
    array = np.ndarray(tensor.shape, storage.dtype, stored, size * first, strides)
    return array.astype(np.float32) if storage.dtype == ml_dtypes.bfloat16 else array
