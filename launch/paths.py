"""Reads paths that users type."""

import argparse
from pathlib import Path

from densenet_jax.errors import InputError, printable

ROOT = Path(__file__).parents[1]  # The directory of the project.


def expanded(text: str) -> Path:
    """Returns the path with `~` expanded. Raises InputError if there is no such home directory."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{text!r} begins with an unknown home directory: write the path without ~"
        ) from error


def typed_path(text: str) -> Path:
    """Reads a path from the command line; serves as the `type` of an argparse argument."""
    if printable(text) != text:
        raise argparse.ArgumentTypeError(f"{text!r} contains control characters: remove them")
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: name a file or a directory")
    try:
        return expanded(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
