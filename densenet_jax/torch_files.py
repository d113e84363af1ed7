"""Reads the files of `torch.save` without PyTorch and without running code from a file.

Such a file holds a pickle, and the numbers of all tensors in blocks called storages. A pickle names
the functions and classes that build its objects. This module never looks up those names: it builds
dicts and tensors itself, and replaces every other object with an inert stand-in.
"""

import functools
import io
import logging
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

from densenet_jax import pickles, torch_modules
from densenet_jax.errors import InputError, TooLarge, UnreadableWeights
from densenet_jax.files import open_regular

# Largest ratio of unpacked to packed bytes of a zip archive. torch.save compresses nothing, and
# other programs compress trained weights by at most a factor of 2.
MAX_INFLATION = 10
MAX_PICKLE_BYTES = 2**26  # Largest pickle beside the storages; 10,000 tensors take 2 MB.
MAX_NAMES = 1000  # Most classes and functions named in a pickle; each takes 1 kB.

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # The first pickle in a file of torch.save before 1.6.
_SAVE_STATE_DICT = "save model.state_dict() with torch.save instead"
_BIG_ENDIAN = ("its numbers are big-endian", "save it on a little-endian machine")
# Keys under which training scripts store a state dict, in order of preference: averaged weights
# come last.
_STATE_DICT_KEYS = (
    *("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module"),
    *("state_dict_ema", "model_ema", "ema"),
)
_AVERAGED = {"state_dict_ema", "model_ema", "ema"}
# Functions and classes that pickles of data call. They build tensors, arrays and Python's own
# containers.
_BUILDERS = re.compile(
    r"torch\.(device|dtype|Size|Generator|ByteTensor|_utils\._rebuild\w*|_tensor\._rebuild\w*"
    r"|serialization\._get_layout|storage\._load_from_bytes|nn\.parameter\.\w+)"
    r"|(numpy|numpy\.core\.\w+|numpy\._core\.\w+|numpy\.random\._pickle)"
    r"\.(dtype|ndarray|scalar|_reconstruct|_frombuffer|__\w+_ctor)"
    r"|(collections|datetime|pathlib|pathlib\._local|decimal|fractions|uuid)\.\w+"
    r"|(builtins|__builtin__)\.(bytearray|bytes|complex|dict|float|frozenset|int|list|object|range"
    r"|xrange|set|slice|str|tuple)"
    r"|(copyreg|copy_reg)\.(_reconstructor|__newobj__|__newobj_ex__)"
    r"|functools\.partial|argparse\.Namespace|_codecs\.encode"
)
_MAX_NESTING = 3  # Levels of dicts that are searched for a state dict.
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


class _Storage(NamedTuple):
    """A block of numbers in the file; `start` counts numbers, not bytes."""

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
    """An inert replacement for an object of any class, or for the result of any function.

    A stand-in keeps its state and, because the original may be a dict, its items.

    Attributes:
      origin: full name of the replaced class or function.
      calls: receives `origin` as a key when the file calls the class or function.
    """

    origin: ClassVar[str] = ""
    calls: ClassVar[dict[str, None]] = {}
    state: object = None

    def __new__(cls, *arguments, **keywords):
        return super().__new__(cls)

    def __init__(self, *arguments, **keywords):
        kind = type(self)
        kind.calls[kind.origin] = None

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
      item_sizes: bytes of one number, by the key of the storage.
    """

    def __init__(self, file: BinaryIO):
        pickles.check(file)
        super().__init__(file, encoding="latin1")  # Decodes all strings that Python 2 wrote.
        self.item_sizes: dict[str, int] = {}
        self._stand_ins: dict[str, type[_StandIn]] = {}
        self._calls: dict[str, None] = {}

    def called_code(self) -> str:
        """Returns the names of called functions that build no data, or "" if there are none."""
        names = [name for name in self._calls if not _BUILDERS.fullmatch(name)]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return ", ".join(names[:3]) + more

    def find_class(self, module: str, name: str) -> Callable | str:
        """Returns the builder of the objects that `module.name` would build.

        A file can set attributes of the builder. Each file therefore gets new functions and
        classes, so that it cannot affect how the next file is read.
        """
        origin = f"{module}.{name}"
        match origin:
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
        if origin not in self._stand_ins:
            if len(self._stand_ins) == MAX_NAMES:
                raise UnreadableWeights(
                    f"it names more than {MAX_NAMES:,} classes", _SAVE_STATE_DICT
                )
            # Dicts have no hash, but the original may be a key of a dict.
            members = {"origin": origin, "calls": self._calls, "__hash__": object.__hash__}
            self._stand_ins[origin] = type(name, (_StandIn,), members)
        return self._stand_ins[origin]

    def persistent_load(self, description: tuple) -> object:
        """Returns the storage that `description` names."""
        if description[0] == "module":  # The class of a whole module, and its source.
            return description[1]
        _, kind, key, _, _, *view = description
        if kind not in _DTYPES:
            name = getattr(kind, "__name__", kind)
            raise UnreadableWeights(f"it holds numbers of the type {name}", "save them as float32")
        self.item_sizes[key] = _DTYPES[kind].itemsize
        # Old versions of PyTorch stored views of storages: (key, start, size).
        start = view[0][1] if view and view[0] else 0
        return _Storage(key, _DTYPES[kind], start)


def read_zip(path: Path, max_bytes: int, ema: bool = False) -> dict[str, np.ndarray]:
    """Returns the arrays of the state dict in a file of `torch.save` since PyTorch 1.6, by name.

    bfloat16 is converted to float32. With `ema` the state dict is that of averaged weights. A whole
    module counts as a state dict.

    Raises:
      UnreadableWeights: there is no state dict, or its tensors take more than `max_bytes` bytes.
      InputError: `ema` is set and the file has no averaged weights.
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        _check_archive(archive, path.stat().st_size)
        pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = pickled.removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") == b"big":
            raise UnreadableWeights(*_BIG_ENDIAN)
        size = archive.getinfo(pickled).file_size
        if size > MAX_PICKLE_BYTES:
            raise UnreadableWeights(f"its pickle has {size:,} bytes", _SAVE_STATE_DICT)
        unpickler = _Unpickler(io.BytesIO(archive.read(pickled)))
        found = unpickler.load()
        state_dict = _state_dict(path, found, unpickler.called_code(), ema)
        _check_size(
            state_dict, max_bytes, lambda key: archive.getinfo(f"{root}data/{key}").file_size
        )
        # Cached, because many tensors may share a storage.
        content = functools.cache(lambda key: archive.read(f"{root}data/{key}"))
        return {name: _array(name, tensor, content) for name, tensor in state_dict.items()}


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """Raises UnreadableWeights if an archive of `size` bytes unpacks to far more."""
    entries = archive.infolist()
    # With other compressions zipfile unpacks a whole piece before it checks the length.
    if any(e.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for e in entries):
        raise UnreadableWeights(
            "it is compressed in a way that torch.save does not use", _SAVE_STATE_DICT
        )
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > MAX_INFLATION * size:
        raise UnreadableWeights(
            f"its {size:,} bytes unpack to {unpacked:,}, more than {MAX_INFLATION} times as many",
            _SAVE_STATE_DICT,
        )


def read_legacy(path: Path, max_bytes: int, ema: bool = False) -> dict[str, np.ndarray]:
    """Returns the same as `read_zip` for a file of `torch.save` before PyTorch 1.6.

    Such a file holds several pickles, then each storage: the number of its items and the items.
    """
    size = path.stat().st_size
    with open_regular(path) as file:
        unpickler = _Unpickler(file)
        if unpickler.load() != _LEGACY_MAGIC:
            reason = "it is a pickle that torch.save did not write"
            if code := unpickler.called_code():
                reason += f" and that holds code, calls of {code}, which was not run"
            raise UnreadableWeights(reason, _SAVE_STATE_DICT)
        _version, machine = _Unpickler(file).load(), _Unpickler(file).load()
        if not machine["little_endian"]:
            raise UnreadableWeights(*_BIG_ENDIAN)
        unpickler = _Unpickler(file)
        found = unpickler.load()
        state_dict = _state_dict(path, found, unpickler.called_code(), ema)
        places = {}
        for key in _Unpickler(file).load():
            length = int.from_bytes(file.read(8), "little") * unpickler.item_sizes[key]
            # A truncated file has fewer bytes than it claims.
            places[key] = file.tell(), max(min(length, size - file.tell()), 0)
            file.seek(length, io.SEEK_CUR)
        _check_size(state_dict, max_bytes, lambda key: places[key][1])

        @functools.cache
        def content(key: str) -> bytes:
            start, length = places[key]
            file.seek(start)
            return file.read(length)

        return {name: _array(name, tensor, content) for name, tensor in state_dict.items()}


def _state_dict(path: Path, found: object, code: str, ema: bool) -> dict[str, _Tensor]:
    """Returns the tensors of the preferred state dict in `found`, and logs ignored entries."""
    if not isinstance(found, dict):
        kind = type(found).__name__.lstrip("_")
        raise UnreadableWeights(f"it holds a {kind}, not a dict of tensors", _SAVE_STATE_DICT)
    state_dicts = dict(_state_dicts(found))
    if not state_dicts:
        raise _missing_state_dict(found, code)
    averaged = [place for place in state_dicts if not _AVERAGED.isdisjoint(place.split("."))]
    if ema and not averaged:
        raise InputError(
            f"{path} has no averaged weights under {', '.join(sorted(_AVERAGED))}, only "
            f"{_entries(found)}: remove ema=True or --ema"
        )
    place = averaged[0] if ema else next(iter(state_dicts))
    others = ", ".join(other for other in state_dicts if other != place)
    if code:
        _warn("%s: holds code, calls of %s, which was not run", path, code)
    if others:
        hint = "; ema=True or --ema reads averaged weights" if averaged and not ema else ""
        _warn("%s: read the weights under %s, not those under %s%s", path, place, others, hint)
    state_dict = state_dicts[place]
    holder = functools.reduce(dict.__getitem__, filter(None, place.split(".")), found)
    if torch_modules.is_module(holder):
        _warn("%s: read the tensors of a whole module, %s", path, type(holder).__name__)
    tensors = {name: value for name, value in state_dict.items() if _is_named_tensor(name, value)}
    if ignored := [_name(name) for name in state_dict if name not in tensors]:
        _warn(
            "%s: ignored entries that are not named tensors (%d): %s",
            *(path, len(ignored), ", ".join(ignored[:8])),
        )
    return tensors


def _warn(message: str, *arguments: object) -> None:
    logging.getLogger("densenet_jax").warning(message, *arguments)


def _entries(found: dict) -> str:
    """Describes the first keys of `found`."""
    keys = list(found)[:8]
    return ", ".join(repr(key) if isinstance(key, str) else _name(key) for key in keys) or "none"


def _name(key: object) -> str:
    """Describes the key of a dict. Keys of other types may be long."""
    return str(key) if isinstance(key, str | int | float) else f"a {type(key).__name__}"


def _check_size(
    tensors: dict[str, _Tensor], max_bytes: int, stored_bytes: Callable[[str], int]
) -> None:
    """Raises UnreadableWeights if the storages of `tensors` take more than `max_bytes` bytes.

    Raises UnreadableWeights also if a tensor reaches beyond its storage, or has more numbers than
    the storage.
    """
    sizes = {key: stored_bytes(key) for key in {t.storage.key for t in tensors.values()}}
    if sum(sizes.values()) > max_bytes:
        raise TooLarge(sum(sizes.values()), max_bytes)
    for name, tensor in tensors.items():
        size = tensor.storage.dtype.itemsize
        first = tensor.storage.start + tensor.offset
        last = first + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
        # NumPy's own check of these bounds could overflow.
        if min([first, *tensor.strides, *tensor.shape]) < 0 or (
            0 not in tensor.shape and (last + 1) * size > sizes[tensor.storage.key]
        ):
            raise UnreadableWeights(f"the numbers of {name} are cut off")
        if math.prod(tensor.shape) * size > sizes[tensor.storage.key]:
            raise UnreadableWeights(
                f"{name} of shape {tensor.shape} repeats its numbers",
                "save tensors that are contiguous()",
            )


def _state_dicts(found: dict, place: str = "", depth: int = 1) -> Iterator[tuple[str, dict]]:
    """Yields each state dict in `found` after its place, in order of preference."""
    inner = [
        state_dict
        for name in _STATE_DICT_KEYS
        if isinstance(found.get(name), dict) and depth < _MAX_NESTING
        for state_dict in _state_dicts(found[name], f"{place}.{name}".lstrip("."), depth + 1)
    ]
    if not inner and torch_modules.is_module(found):
        found = torch_modules.tensors(found)
    # A checkpoint may hold one tensor beside the state dict, such as the best accuracy.
    if not inner and any(_is_named_tensor(name, value) for name, value in found.items()):
        inner = [(place, found)]
    yield from inner


def _is_named_tensor(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, _Tensor)


def _missing_state_dict(found: dict, code: str) -> UnreadableWeights:
    """Returns the error for a file without a state dict."""
    for value in (found, *map(found.get, _STATE_DICT_KEYS)):
        if torch_modules.is_module(value):
            reason = f"it holds a whole module, {type(value).__name__}, without tensors"
            return UnreadableWeights(reason, _SAVE_STATE_DICT)
    reason = f"it holds no dict of tensors; its entries: {_entries(found)}"
    if code:
        reason = f"it holds code, calls of {code}, which was not run, and no dict of tensors"
    return UnreadableWeights(reason, _SAVE_STATE_DICT)


def _array(name: str, tensor: _Tensor, content: Callable[[str], bytes]) -> np.ndarray:
    storage, size = tensor.storage, tensor.storage.dtype.itemsize
    stored = content(storage.key)
    first = storage.start + tensor.offset
    strides = [size * stride for stride in tensor.strides]
    array = np.ndarray(tensor.shape, storage.dtype, stored, size * first, strides)
    return array.astype(np.float32) if storage.dtype == ml_dtypes.bfloat16 else array
