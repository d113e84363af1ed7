"""SGD and its schedules, as functions of the config."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import keystr, tree_leaves_with_path, tree_map_with_path
from ml_collections import ConfigDict

from densenet_jax.errors import InputError
from densenet_jax.train.config import drop_steps, steps_per_epoch


def learning_rate(config: ConfigDict, examples: int) -> optax.Schedule:
    """The learning rate of each step, with so many `examples` an epoch."""
    epoch = steps_per_epoch(config, examples)
    if config.learning_rate_schedule == "cosine":
        schedule = optax.cosine_decay_schedule(config.learning_rate, config.epochs * epoch)
    else:
        drops = drop_steps(config, examples)
        schedule = step_schedule(config.learning_rate, drops, config.learning_rate_drop_factor)
    warmup_steps = round(config.warmup_epochs * epoch)
    return lambda step: jnp.where(step < warmup_steps, config.warmup_learning_rate, schedule(step))


def step_schedule(
    learning_rate: float, drop_steps: tuple[int, ...], factor: float = 0.1
) -> optax.Schedule:
    """`learning_rate`, `factor` times it from the first of `drop_steps` on, and so forth."""

    def rate(step):
        drops = (step >= jnp.asarray(drop_steps, jnp.int32)).sum()
        return learning_rate * factor**drops

    return rate


def companion_weight(config: ConfigDict, examples: int) -> optax.Schedule:
    """The weight of the losses of companions, which fade out linearly."""
    steps = config.companion_fade * config.epochs * steps_per_epoch(config, examples)
    return optax.linear_schedule(config.companion_weight, 0, max(round(steps), 1))


def optimizer(
    config: ConfigDict, learning_rate: optax.Schedule, params
) -> optax.GradientTransformation:
    """Raises InputError if one of the multipliers is for none of `params`."""
    paths = [_name(path) for path, _ in tree_leaves_with_path(params)]
    for pattern, _ in config.learning_rate_multipliers:
        if not any(re.search(pattern, path) for path in paths):
            raise InputError(
                f"learning_rate_multipliers: {pattern!r} matches no parameter of "
                f"{config.model.name}, which has {', '.join(paths[:4])} and so on."
            )
    return optax.chain(
        sgd(learning_rate, config.momentum, config.weight_decay, config.nesterov),
        optax.stateless(functools.partial(_multiply, config.learning_rate_multipliers)),
    )


def sgd(
    learning_rate, momentum: float, weight_decay: float, nesterov: bool = True
) -> optax.GradientTransformation:
    """PyTorch's and Torch's SGD, with L2 decay on every parameter."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(learning_rate, momentum=momentum or None, nesterov=nesterov and momentum > 0),
    )


def _multiply(multipliers: tuple[tuple[str, float], ...], updates, params):
    """Each update times the factors of all patterns that its path matches."""

    def one(path, update: jax.Array) -> jax.Array:
        factors = [factor for pattern, factor in multipliers if re.search(pattern, _name(path))]
        return update * math.prod(factors) if factors else update

    return tree_map_with_path(one, updates)


def _name(path) -> str:
    return keystr(path, simple=True, separator="/")
