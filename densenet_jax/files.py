"""Writes files so that a crash or a power loss leaves the old content or the new, never a part."""

import json
import os
from pathlib import Path

from densenet_jax.errors import InputError

MAX_JSON_BYTES = 2**24  # Of one JSON file or line; 1000 classes of 100 characters take 0.1 MB.


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


def unfinished_name(name: str) -> str:
    """Returns the name under which `write_durably` writes the file `name`."""
    return f".{name}.new"


def sync(path: Path) -> None:
    """Puts the content of a file, or the names in a directory, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def parse_object(text: str | bytes) -> dict:
    """Returns the object in a JSON document. Raises ValueError for anything else."""
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
    """Returns the object in a JSON file; None if there is no such file.

    Raises InputError if the file holds anything else, or cannot be read.
    """
    try:
        # A FIFO gives nothing instead of waiting for a writer.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            return parse_object(file.read(MAX_JSON_BYTES + 1))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): restore or remove it") from error
