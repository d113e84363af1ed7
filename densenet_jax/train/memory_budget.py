"""Chooses what the backward pass recomputes, so that a training step fits a memory budget."""

import contextlib
from collections.abc import Callable

from ml_collections import ConfigDict

from densenet_jax.errors import InputError
from densenet_jax.models.catalog import model_config
from densenet_jax.train.compiler import compile_if_possible, total_bytes
from densenet_jax.train.config import check_config, family_keys, model_settings
from densenet_jax.train.trainer import Trainer


def step_bytes(config: ConfigDict) -> float:
    """Returns the memory of a training step on one of the devices, see `total_bytes`."""
    with contextlib.closing(Trainer(config)) as trainer:
        return total_bytes(compile_if_possible(lambda: trainer.compiled("train")))


def fitting(
    config: ConfigDict, step_bytes: Callable[[ConfigDict], float] = step_bytes
) -> ConfigDict:
    """Returns `config` with the cheapest model.remat whose step needs at most `memory_gb`.

    The budget of the result is 0. Without a budget returns `config` itself.

    Args:
      step_bytes: returns the memory of a training step of a config on one device, in bytes.

    Raises InputError if the config is wrong, or if no choice fits.
    """
    check_config(config)
    if not config.memory_gb:
        return config
    network = model_config(config.model.name, **model_settings(config))
    choices = family_keys(type(network))["model.remat"].choices  # The cheapest comes first.
    needed = {}
    for remat in choices:
        tried = config.copy_and_resolve_references()
        tried.memory_gb, tried.model.remat = 0.0, remat
        needed[remat] = step_bytes(tried) / 1e9
        if needed[remat] <= config.memory_gb:
            return tried
    found = ", ".join(f"{gigabytes:.3g} GB with {remat}" for remat, gigabytes in needed.items())
    raise InputError(
        f"memory_gb is {config.memory_gb:g}, but a step needs {found} on each device: lower "
        "batch_size, or raise accumulate"
    )
