"""Checks that a checkpoint is read as it was written: its files, and the arrays in them."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from densenet_jax.files import write_durably

SUMS = "SHA256SUMS"


class Unreadable(Exception):
    """A checkpoint that cannot be used; its message is the reason."""


def write_sums(folder: Path) -> None:
    """Writes the SHA-256 of each file of a checkpoint, as `sha256sum --check` reads them."""
    files = _content(folder)
    lines = [f"{_sha256(file)}  {file.relative_to(folder)}\n" for file in files]
    write_durably(folder / SUMS, "".join(lines))


def check_sums(folder: Path) -> None:
    """Raises Unreadable if a file of a checkpoint is not as it was written."""
    if not (folder / SUMS).is_file():
        raise Unreadable(f"{SUMS} is missing")
    try:
        lines = (folder / SUMS).read_text(errors="replace").splitlines()
        expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        found = {str(file.relative_to(folder)): _sha256(file) for file in _content(folder)}
    except FileNotFoundError as error:
        raise Unreadable(f"{Path(error.filename).relative_to(folder)} is missing") from error
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise Unreadable(f"{name} is {'changed' if name in found else 'missing'}")


def _content(folder: Path) -> list[Path]:
    """Returns the files of both items of a checkpoint."""
    return sorted(file for file in folder.glob("*/**/*") if file.is_file())


def digests(arrays: dict[str, Any]) -> dict[str, str]:
    """Returns the SHA-256 of each array with its type and shape, by its path in the tree."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        array = np.ascontiguousarray(leaf)
        digest = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
        digest.update(array.reshape(-1).view(np.uint8))
        found["/".join(map(_key, path))] = digest.hexdigest()
    return found


def _key(entry) -> str:
    """Returns a step of a path in a tree: the key of a dict, an index, or a field."""
    for name in ("key", "idx", "name"):
        if hasattr(entry, name):
            return str(getattr(entry, name))
    raise TypeError(f"a path in a train state has a {type(entry).__name__}")


def compare(found: dict[str, str], expected: dict[str, str]) -> None:
    """Raises ValueError if an array that was read is not the one that was saved."""
    for name, digest in found.items():
        if digest != expected.get(name):
            raise ValueError(f"the array {name} reads back with other values than were saved")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
