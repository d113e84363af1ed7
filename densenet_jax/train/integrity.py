"""Checksums of the files and the arrays of a checkpoint, to detect damage."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from densenet_jax.files import write_durably

CHECKSUM_FILE = "SHA256SUMS"


class Unreadable(Exception):
    """A checkpoint that cannot be used; its message is the reason."""


def write_checksums(checkpoint: Path) -> None:
    """Writes the SHA-256 of each file of a checkpoint, in the format of `sha256sum --check`."""
    files = _files(checkpoint)
    lines = [f"{_sha256(file)}  {file.relative_to(checkpoint)}\n" for file in files]
    write_durably(checkpoint / CHECKSUM_FILE, "".join(lines))


def check_checksums(checkpoint: Path) -> None:
    """Raises Unreadable if a file of a checkpoint is missing or has changed."""
    if not (checkpoint / CHECKSUM_FILE).is_file():
        raise Unreadable(f"{CHECKSUM_FILE} is missing")
    try:
        lines = (checkpoint / CHECKSUM_FILE).read_text(errors="replace").splitlines()
        expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        found = {str(file.relative_to(checkpoint)): _sha256(file) for file in _files(checkpoint)}
    except FileNotFoundError as error:
        raise Unreadable(f"{Path(error.filename).relative_to(checkpoint)} is missing") from error
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise Unreadable(f"{name} is {'changed' if name in found else 'missing'}")


def _files(checkpoint: Path) -> list[Path]:
    """Returns the files in the directories `state` and `progress` of a checkpoint."""
    return sorted(file for file in checkpoint.glob("*/**/*") if file.is_file())


def digests(arrays: Any) -> dict[str, str]:
    """Returns the SHA-256 of each array of a tree, its type and its shape, by path."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        array = np.ascontiguousarray(leaf)
        digest = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
        found["/".join(map(_key, path))] = digest.hexdigest()
    return found


def _key(entry) -> str:
    """Returns one entry of a path in a tree: the key of a dict, an index, or a field."""
    for name in ("key", "idx", "name"):
        if hasattr(entry, name):
            return str(getattr(entry, name))
    raise TypeError(f"a path in a train state has a {type(entry).__name__}")


def compare(found: dict[str, str], expected: dict[str, str]) -> None:
    """Raises ValueError if an array has other values than the saved one."""
    for name, digest in found.items():
        if digest != expected.get(name):
            raise ValueError(f"the array {name} reads back with other values than were saved")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
