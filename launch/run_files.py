"""Reads the files of many run directories fast: each file once, and without config objects."""

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from densenet_jax.errors import InputError
from densenet_jax.files import open_regular, parse_object, read_object
from densenet_jax.train.config import all_keys, check_none, defaults, flatten
from densenet_jax.train.record import RunDirectory, is_sound, with_tuples

_BLOCK_BYTES = 2**16  # Larger reads a metrics file in fewer calls and uses more memory.


def find_files(directory: Path, name: str) -> Iterator[Path]:
    """Yields the files called `name` anywhere in `directory`, except in checkpoints of runs."""
    for path, directories, files in os.walk(directory):
        if "environment.json" in files and "checkpoints" in directories:
            directories.remove("checkpoints")  # They may hold thousands of files.
        if name in files:
            yield Path(path) / name


def flat_config(directory: Path) -> dict | None:
    """Returns `flatten(RunDirectory(directory).config())`; None if there is no config.json.

    Raises InputError if the file is damaged.
    """
    if (values := read_object(directory / "config.json")) is None:
        return None
    flat = _flat(values)
    types = _types()
    if flat.keys() <= types.keys() and all(type(flat[key]) in types[key] for key in flat):
        return {**defaults(), **flat}
    # ConfigDict converts values, such as an integer to a float, or refuses them.
    flat = flatten(RunDirectory(directory).config())
    check_none(flat)
    return flat


def _flat(values: dict, prefix: str = "") -> dict:
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = with_tuples(value)
    return flat


@functools.cache
def _types() -> Mapping[str, tuple[type, ...]]:
    """Returns the types that the values of each key can have in a file."""
    return {
        key: (row.kind, type(None)) if row.optional else (row.kind,)
        for key, row in all_keys().items()
    }


def metrics_backwards(directory: Path) -> Iterator[dict]:
    """Yields the lines of `RunDirectory(directory).metrics()`, the last one first.

    Reads the file block by block from its end. Raises InputError if a line is damaged.
    """
    path = directory / "metrics.jsonl"
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    with file:
        start, rest, is_whole = file.seek(0, os.SEEK_END), b"", False
        while start:
            size = min(start, max(_BLOCK_BYTES, len(rest)))
            start -= size
            file.seek(start)
            rest, *lines = (file.read(size) + rest).split(b"\n")
            # Text after the last newline is a line that was being written when the run stopped.
            for text in reversed(lines if is_whole else lines[:-1]):
                yield _metrics_line(text, path)
            is_whole = is_whole or bool(lines)
        if is_whole:
            yield _metrics_line(rest, path)


def _metrics_line(text: bytes, path: Path) -> dict:
    try:
        line = parse_object(text)
        if not isinstance(line.get("epoch"), int):
            raise ValueError("a line without an epoch")
        for name in ("epoch", "test_error"):
            if not is_sound(name, line.get(name, 0)):
                raise ValueError(f"{name} is {line[name]!r:.50}")
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): restore or remove the file") from error
    return line
