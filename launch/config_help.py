"""The part of `--help` that describes the config keys."""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator

from densenet_jax.models.catalog import FAMILIES
from densenet_jax.models.network import NetworkConfig
from densenet_jax.train.config import family_keys
from densenet_jax.train.keys import KEYS, Key

_COLUMNS = 100
_INDENT = 29  # Column of the descriptions, after the longest key.


def config_help() -> str:
    """Returns a row for each config key; the keys of each network family have a section."""
    lines = ["config keys, set by --config.KEY=VALUE (--config.KEY=None unsets an optional key):"]
    lines += [_row(key, _described(row) + _default(row)) for key, row in KEYS.items()]
    lines += ["", "config keys of every network (unset: the value of model.name in the catalogue):"]
    lines += _family_rows(NetworkConfig)
    for family in FAMILIES:
        if family.__base__ is not NetworkConfig:  # It has the fields of its base.
            continue
        lines += ["", f"config keys of {family.__name__.removesuffix('Config')}:"]
        lines += _family_rows(family)
    return "\n".join(lines)


def _row(key: str, text: str) -> str:
    return textwrap.fill(
        " ".join(text.split()),
        _COLUMNS,
        initial_indent=f"  {key}  ".ljust(_INDENT),
        subsequent_indent=" " * _INDENT,
        break_on_hyphens=False,
    )


def _described(row: Key) -> str:
    return row.help + (f"; choices: {', '.join(row.choices)}" if row.choices else "")


def _default(row: Key) -> str:
    return f"; default: {'unset' if row.default is None else row.default}"


def _family_rows(family: type) -> Iterator[str]:
    """Yields a row for each field that the docstring of a network's config describes."""
    known = family_keys(family)
    attributes = textwrap.dedent((inspect.getdoc(family) or "").split("Attributes:\n")[1])
    for entry in re.split(r"\n(?=\S)", attributes.strip()):
        fields, text = entry.split(": ", 1)
        keys = [f"model.{field}" for field in fields.split(", ")]
        if keys[0] in known:  # Not dtype, which is a key for all networks.
            row = dataclasses.replace(known[keys[0]], help=text.rstrip("."))
            yield _row(", ".join(keys), _described(row))
