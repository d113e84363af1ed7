"""Reads regular files only, and writes files durably.

After a crash or a power loss a file has its old content or its new content, never a part of it.
"""

import json
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from densenet_jax.errors import InputError, UnsupportedFile

MAX_JSON_BYTES = 2**24  # Largest JSON file or line; 1000 classes of 100 characters take 0.1 MB.
MAX_JSON_DEPTH = 100  # Deepest nesting of objects and lists; the files of a run are 4 deep.
# Kinds of paths that are not regular files. Reading from most of them would block for ever.
_OTHER_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file to read.

    Raises InputError for a directory, a named pipe, a socket or a device, before opening it. Raises
    OSError as `open` does.
    """
    check_regular(path)
    return path.open("rb")


def check_regular(path: Path) -> None:
    """Raises InputError if `path` is a directory, a named pipe, a socket or a device."""
    kind = _OTHER_KINDS.get(stat.S_IFMT(path.stat().st_mode))
    if kind is not None:
        raise InputError(f"{path} is {kind}, not a regular file: remove it, or name a file")


def read_regular(path: Path, max_bytes: int, offset: int = 0, length: int = -1) -> bytes:
    """Returns `length` bytes of a regular file from `offset` on; -1 reads to the end of the file.

    Raises UnsupportedFile for more than `max_bytes` bytes, and the errors of `open_regular`.
    """
    with open_regular(path) as file:
        if length < 0:
            length = max(os.fstat(file.fileno()).st_size - offset, 0)
        if length > max_bytes:
            raise UnsupportedFile(
                f"has {length:,} bytes, more than the limit of {max_bytes:,}: replace it"
            )
        file.seek(offset)
        return file.read(length)


def write_durably(path: Path, content: str | bytes) -> None:
    """Replaces the content of the file at `path`; the content is on disk when this returns.

    A crash leaves at most an unfinished file, `unfinished_name(path.name)`, beside it. The next
    write replaces that file, so only one process at a time may write to `path`.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    unfinished = path.with_name(unfinished_name(path.name))
    with unfinished.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    sync(path.parent)


def check_writable(directory: Path, name: str) -> None:
    """Raises InputError if no file can be written to `directory`; leaves nothing behind.

    Args:
      name: the flag that named the directory, for the message.
    """
    try:
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise InputError(f"cannot write to {name} {directory}: {error.strerror}") from error


def unfinished_name(name: str) -> str:
    """Returns the name under which `write_durably` writes the file `name`."""
    return f".{name}.new"


def sync(path: Path) -> None:
    """Flushes the content of a file, or the entries of a directory, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def parse_object(text: str | bytes) -> dict:
    """Returns the object in a JSON document; raises ValueError for any other document."""
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"it is longer than {MAX_JSON_BYTES:,} bytes")
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, not a JSON object")
    return found


def read_object(path: Path) -> dict | None:
    """Returns the object in a JSON file, or None if the file does not exist.

    Raises InputError if the file cannot be read or holds no JSON object.
    """
    try:
        found = parse_object(read_regular(path, MAX_JSON_BYTES))
        _check_depth(found)
        return found
    except (FileNotFoundError, NotADirectoryError):
        return None
    except InputError:
        raise
    except UnsupportedFile as error:
        raise InputError(f"{path} {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): restore or remove it") from error


def _check_depth(values: dict) -> None:
    """Raises ValueError if values are nested too deeply for recursive code."""
    level: list[dict | list] = [values]
    for _ in range(MAX_JSON_DEPTH):
        inner = [value for values in level for value in _inside(values)]
        level = [value for value in inner if isinstance(value, dict | list)]
        if not level:
            return
    raise ValueError(f"its values are nested more than {MAX_JSON_DEPTH} deep")


def _inside(values: dict | list) -> Iterable:
    return values.values() if isinstance(values, dict) else values
