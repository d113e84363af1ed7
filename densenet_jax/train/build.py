"""Builds from a config the network, the context of its steps, and its first train state."""

import dataclasses
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from densenet_jax.data.dataset import Dataset
from densenet_jax.errors import InputError, counted
from densenet_jax.models.catalog import FAMILIES, model_config
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.models.forms import choose_form
from densenet_jax.models.network import NetworkConfig
from densenet_jax.train.config import model_settings
from densenet_jax.train.freezing import freeze, trained
from densenet_jax.train.inputs import augmentation
from densenet_jax.train.losses import config_loss
from densenet_jax.train.mesh import platform
from densenet_jax.train.optimizer import companion_weight, optimizer
from densenet_jax.train.step import INIT, StepContext, TrainState, random_key


def network_config(config: ConfigDict, data: Dataset) -> NetworkConfig:
    """Returns the config of the network, with the classes and channels of the data.

    Raises InputError if the config has other numbers of them.
    """
    settings = model_settings(config)
    classes, channels = data.num_classes, data.image_shape[-1]
    settings = {"num_classes": classes, "in_channels": channels} | settings
    too_many = data.multilabel and settings["num_classes"] > classes
    if settings["num_classes"] < classes or too_many or settings["in_channels"] != channels:
        raise InputError(
            f"{config.data.name} has {counted(classes, 'class')} and "
            f"{counted(channels, 'channel')}, but the model has "
            f"{settings['num_classes']} and {settings['in_channels']}: leave "
            "model.num_classes and model.in_channels unset"
        )
    return model_config(config.model.name, **settings)


def build(
    config: ConfigDict,
    data: Dataset,
    of_network: NetworkConfig,
    learning_rate: optax.Schedule,
    mesh: Mesh,
) -> tuple[StepContext, StepContext, TrainState]:
    """Returns the contexts before and after the end of `freeze_epochs`, and the first state."""
    rngs = nnx.Rngs(random_key(config.seed, INIT))
    built, reason = choose_form(of_network, mesh.devices.flat[0])
    if config.freeze and isinstance(built, DenseNetConfig):
        built, reason = dataclasses.replace(built, block="xla"), "parameters are frozen"
    if getattr(of_network, "block", "") == "kernels" and built != of_network:
        logging.warning("model.block is kernels, but dense blocks use plain JAX: %s", reason)
    model = FAMILIES[type(built)](built, rngs=rngs)
    graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    params, batch_stats, other = map(nnx.to_pure_dict, states)
    context = StepContext(
        graphdef=graphdef,
        other=other,
        optimizer=optimizer(config, learning_rate, params),
        seed=config.seed,
        mean=data.mean,
        std=data.std,
        dtype=of_network.dtype,
        augmentation=augmentation(config, data),
        loss=config_loss(config, data),
        companion_weight=companion_weight(config, len(data.train)),
        flat_loop=platform(mesh) == "gpu" and not _needs_paths(config),
        ema_decay=config.ema_decay,
        accumulate=config.accumulate,
        unroll=platform(mesh) == "cpu",  # Where loops are slow, see step.py.
    )
    unfrozen = context
    if config.freeze:
        frozen = freeze(model, config.freeze)
        context = dataclasses.replace(context, graphdef=nnx.graphdef(model), frozen=frozen)
    # One program, not one a shape.
    opt_state = jax.jit(context.optimizer.init)(trained(params, context.frozen))
    state = TrainState(jnp.zeros((), jnp.int32), params, batch_stats, opt_state)
    if config.ema_decay or config.swa_epochs:
        state = dataclasses.replace(state, average=copied(state.weights))
    return context, unfrozen, state


def copied(tree: Any) -> Any:
    """Returns separate arrays, because training donates them."""
    return jax.tree.map(np.array, tree)


def _needs_paths(config: ConfigDict) -> bool:
    """Returns whether steps treat parameters differently, which a flat vector cannot."""
    return bool(
        config.learning_rate_multipliers
        or config.layer_decay != 1
        or config.freeze
        or config.weight_decay_on != "all"
        or config.optimizer in ("lamb", "muon")
    )
