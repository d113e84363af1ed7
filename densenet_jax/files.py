"""Writes files so that a crash or a power loss leaves the old content or the new, never a part."""

import os
from pathlib import Path


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
    sync_directory(path.parent)


def unfinished_name(name: str) -> str:
    """Returns the name under which `write_durably` writes the file `name`."""
    return f".{name}.new"


def sync_directory(path: Path) -> None:
    """Puts the names in a directory on disk: new files, renamed files, removed files."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
