"""Paths as users type them."""

import argparse
from pathlib import Path

from densenet_jax.errors import InputError, printable


def expanded(text: str) -> Path:
    """Returns the path with `~` expanded. Raises InputError if there is no such home directory."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{text!r} begins with a home directory that is not known: write the path out"
        ) from error


def typed_path(text: str) -> Path:
    """Reads a path from the command line, as the `type` of an argument of argparse."""
    if printable(text) != text:
        raise argparse.ArgumentTypeError(f"it is {text!r}: leave out the control characters")
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: name a file or a directory")
    try:
        return expanded(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
