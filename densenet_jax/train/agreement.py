"""Checks that all processes of a run were started with the same settings."""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from densenet_jax.errors import InputError
from densenet_jax.train.config import flatten
from densenet_jax.train.record import differing, versions

_SETTINGS_BYTES = 2**16  # Size of the exchanged settings; those of a config take about 3000 bytes.


def check_agreement(config: ConfigDict, workdir: Path) -> None:
    """Raises InputError if processes of this run have another config, directory or version."""
    if jax.process_count() == 1:
        return
    settings = {"workdir": str(workdir.resolve()), **flatten(config)}
    settings |= {f"version of {name}": v for name, v in versions("densenet_jax", "jax").items()}
    text = json.dumps(settings, default=str).encode()
    if len(text) > _SETTINGS_BYTES:
        text = json.dumps({"config": hashlib.sha256(text).hexdigest()}).encode()
    padded = np.frombuffer(text.ljust(_SETTINGS_BYTES), np.uint8)
    first, *others = map(json.loads, map(bytes, multihost_utils.process_allgather(padded)))
    for process, other in enumerate(others, 1):
        if keys := differing(first, other):
            found = (f"{key} ({first.get(key)!r} and {other.get(key)!r})" for key in keys)
            raise InputError(
                f"process 0 and process {process} have different settings: {', '.join(found)}; "
                "give every process the same command and version"
            )
