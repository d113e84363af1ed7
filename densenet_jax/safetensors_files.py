"""Reads safetensors files, single or in shards."""

import json
import math
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import ml_dtypes
import numpy as np

from densenet_jax.errors import InputError, TooLarge, UnreadableWeights, counted, few
from densenet_jax.files import open_regular, read_object

MAX_HEADER_BYTES = 2**24  # Largest header of a file; 10,000 tensors take 1 MB.
MAX_SHARDS = 256  # Most files that an index names; published networks of any kind have up to 200.
_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
    "C64": np.dtype("<c8"),
}


class _Stored(NamedTuple):
    """A tensor in a file: its type, its shape, and its first byte after the header."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int


def is_safetensors(start: bytes) -> bool:
    """Returns whether a file that begins with `start` is in safetensors format.

    Such a file has 8 bytes with the length of a JSON header, then the header.
    """
    return start[8:9] == b"{"


def may_be_index(start: bytes) -> bool:
    """Returns whether a file that begins with `start` may be the index of shards, which is JSON.

    The length of a safetensors header has zeros among its 8 bytes.
    """
    return start.lstrip()[:1] == b"{" and 0 not in start[:8]


def read_file(
    path: Path, max_bytes: int, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Returns the arrays of a safetensors file by name; bfloat16 keeps its type.

    Args:
      path: the file.
      max_bytes: limit on the bytes of all tensors in the file.
      names: names of the arrays to return; all by default.

    Raises:
      UnreadableWeights: the file is damaged, too large, or lacks one of the `names`.
    """
    from safetensors import safe_open

    size = path.stat().st_size
    with open_regular(path) as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > min(MAX_HEADER_BYTES, size):
            raise UnreadableWeights(f"its header claims {header_bytes:,} bytes")
        if size - header_bytes - 8 > max_bytes:
            raise TooLarge(size - header_bytes - 8, max_bytes)
        # The library refuses tensors that overlap, leave gaps, or do not end with the file. NumPy
        # lacks bfloat16, so this function converts the bytes.
        with safe_open(path, framework="np"):
            pass
        header = json.loads(file.read(header_bytes))
        stored = {name: _stored(d) for name, d in header.items() if name != "__metadata__"}
        if lacking := sorted(set(names or ()) - stored.keys()):
            raise UnreadableWeights(f"it lacks {few(lacking)}")
        found = {}
        for name in stored if names is None else names:
            dtype, shape, start = stored[name]
            file.seek(8 + header_bytes + start)
            content = file.read(math.prod(shape) * dtype.itemsize)
            found[name] = np.frombuffer(content, dtype).reshape(shape)
        return found


def _stored(description: dict) -> _Stored:
    kind = description["dtype"]
    if kind not in _DTYPES:
        raise UnreadableWeights(
            f"it holds numbers of {kind}, a type that NumPy lacks", "convert them to float32"
        )
    return _Stored(_DTYPES[kind], tuple(description["shape"]), description["data_offsets"][0])


def read_shards(
    index: Path, max_bytes: int, fetch: Callable[[str], Path]
) -> dict[str, np.ndarray] | None:
    """Returns the arrays in all shards of an index, or None if the JSON file is no index.

    An index such as `model.safetensors.index.json` has `weight_map`: {array name: file name}.

    Args:
      index: the JSON file.
      max_bytes: limit on the bytes of all tensors in all shards.
      fetch: returns the path of a shard, given its file name.

    Raises:
      InputError: the index is damaged, or names missing or too many shards or shards elsewhere.
      UnreadableWeights: a shard is too large.
    """
    content = read_object(index) or {}
    places = content.get("weight_map")
    if not isinstance(places, dict):
        return None
    shards = _names_by_shard(index, places)
    if not shards:
        raise UnreadableWeights("its index names no shards")
    metadata = content.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(total, int | float) and total > max_bytes:  # Before shards are downloaded.
        raise TooLarge(int(total), max_bytes)
    paths = {shard: fetch(shard) for shard in shards}
    if missing := [shard for shard, path in paths.items() if not path.exists()]:
        raise InputError(
            f"{index} names {counted(len(missing), 'shard')} missing from its directory, "
            f"{few(missing)}: copy every shard to {index.parent}"
        )
    total = sum(path.stat().st_size for path in paths.values())
    if total > max_bytes + MAX_HEADER_BYTES:
        raise TooLarge(total, max_bytes)
    found: dict[str, np.ndarray] = {}
    for shard, names in shards.items():
        with open_regular(paths[shard]) as file:
            if not is_safetensors(file.read(9)):
                raise UnreadableWeights(f"its shard {shard} is not a safetensors file")
        left = max_bytes - sum(array.nbytes for array in found.values())
        try:
            found |= read_file(paths[shard], left, names)
        except TooLarge:
            raise
        except Exception as error:  # The library raises exceptions of its own.
            raise UnreadableWeights(f"its shard {shard}: {error}") from error
    return found


def _names_by_shard(index: Path, places: dict) -> dict[str, list[str]]:
    """Returns the names of arrays by the file name of their shard. Raises InputError."""
    shards: dict[str, list[str]] = {}
    for name, shard in places.items():
        if not _is_plain(shard):
            raise InputError(
                f"{index} names the shard {shard!r:.200}, which is not the name of a file in its "
                "directory: use an index with plain file names"
            )
        shards.setdefault(shard, []).append(name)
    if len(shards) > MAX_SHARDS:
        raise InputError(
            f"{index} names {len(shards):,} shards, more than the limit of {MAX_SHARDS}: write "
            "fewer and larger shards"
        )
    return shards


def _is_plain(name: object) -> bool:
    """Returns whether `name` is the name of a file in the same directory on any system."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and name.isprintable()
        and PurePosixPath(name).name == PureWindowsPath(name).name == name
    )
