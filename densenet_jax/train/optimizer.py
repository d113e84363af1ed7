"""The optimisers and the learning rate schedules, as functions of the config."""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import KeyPath, tree_leaves_with_path, tree_map_with_path
from ml_collections import ConfigDict
from optax.contrib import (
    MuonDimensionNumbers,
    MuonState,
    ReduceLROnPlateauState,
    muon,
    reduce_on_plateau,
)

from densenet_jax.errors import InputError
from densenet_jax.train.config import drop_steps, steps_per_epoch
from densenet_jax.train.freezing import HEAD, path_of

# Beginnings of the paths of the last BatchNorm, in the families with blocks, and of the classifier.
_BEHIND_BLOCKS = ("norm5/", "norm/", HEAD)
# The decay rates of the moments, and the number added to the divisor, if the config leaves them
# open: the defaults of PyTorch (AdamW) and timm.
_MOMENTS: dict[str, tuple[tuple[float, ...], float]] = {
    "adamw": ((0.9, 0.999), 1e-8),
    "lamb": ((0.9, 0.999), 1e-6),
    "lion": ((0.9, 0.99), 0.0),
    "muon": ((0.9, 0.999), 1e-8),
    "rmsprop": ((0.9,), 1e-10),
}
# Makes the updates of Muon as large as those of AdamW, so that one learning rate suits both
# (Liu et al., arXiv 2502.16982).
_MUON_RMS = 0.2


def learning_rate(config: ConfigDict, examples: int) -> optax.Schedule:
    """Returns the learning rate of each step, for epochs of `examples` training images."""
    epoch = steps_per_epoch(config, examples)
    if config.learning_rate_schedule == "cosine":
        steps = math.ceil(config.epochs * epoch / config.learning_rate_cycles)
        floor = config.final_learning_rate / (config.learning_rate or 1)
        schedule = optax.cosine_decay_schedule(config.learning_rate, steps, floor)
        schedule = repeated(schedule, steps) if config.learning_rate_cycles > 1 else schedule
    elif config.learning_rate_schedule == "one_cycle":
        schedule = optax.cosine_onecycle_schedule(config.epochs * epoch, config.learning_rate)
    elif config.learning_rate_schedule == "plateau":
        schedule = optax.constant_schedule(config.learning_rate)  # `after_evaluation` lowers it.
    else:
        drops = drop_steps(config, examples)
        schedule = step_schedule(config.learning_rate, drops, config.learning_rate_drop_factor)
    warmup_steps = round(config.warmup_epochs * epoch)
    if not warmup_steps:
        return schedule
    first = config.warmup_learning_rate
    last = config.learning_rate if config.warmup == "linear" else first
    warmup = optax.linear_schedule(first, last, warmup_steps)
    return lambda step: jnp.where(step < warmup_steps, warmup(step), schedule(step))


def repeated(schedule: optax.Schedule, steps: int) -> optax.Schedule:
    """Returns a schedule that repeats the first `steps` steps of `schedule`."""
    return lambda step: schedule(step % steps)


def step_schedule(
    learning_rate: float, drop_steps: tuple[int, ...], factor: float = 0.1
) -> optax.Schedule:
    """Returns a schedule that multiplies `learning_rate` by `factor` at each of `drop_steps`."""

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        drops = jnp.sum(step >= jnp.asarray(drop_steps, jnp.int32))
        return learning_rate * factor**drops

    return rate


def companion_weight(config: ConfigDict, examples: int) -> optax.Schedule:
    """Returns the weight of the companion losses at each step, which falls linearly to 0."""
    steps = config.companion_fade * config.epochs * steps_per_epoch(config, examples)
    return optax.linear_schedule(config.companion_weight, 0, max(round(steps), 1))


def optimizer(
    config: ConfigDict, learning_rate: optax.Schedule, params: optax.Params
) -> optax.GradientTransformation:
    """Builds the optimiser.

    Raises InputError if a multiplier matches none of `params`, or if the network has no blocks
    between which the rate could decay.
    """
    paths = [path_of(path) for path, _ in tree_leaves_with_path(params)]
    for pattern, _ in config.learning_rate_multipliers:
        if not any(re.search(pattern, path) for path in paths):
            raise InputError(
                f"learning_rate_multipliers: {pattern!r} matches no parameter of "
                f"{config.model.name}: use a part of a path such as {', '.join(paths[:4])}"
            )
    stages = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    stages += [
        _rule(config, learning_rate),
        optax.stateless(functools.partial(_multiply, _factors(config, paths))),
    ]
    if config.learning_rate_schedule == "plateau":
        stages.append(optax.GradientTransformation(functools.partial(_unreduced, config), _scaled))
    return optax.chain(*stages)


def plateau_factor(opt_state: optax.OptState) -> float:
    """Returns the product of the drops so far of the schedule "plateau", 1 for other schedules."""
    last = opt_state[-1]
    return float(last.scale) if isinstance(last, ReduceLROnPlateauState) else 1.0


def after_evaluation(
    config: ConfigDict, opt_state: optax.OptState, validation_error: jax.Array
) -> optax.OptState:
    """Returns the state of the optimiser of the schedule "plateau" after an evaluation."""
    *others, plateau = opt_state
    _, plateau = _reduction(config).update({}, plateau, value=validation_error)
    return *others, plateau


def _reduction(config: ConfigDict) -> optax.GradientTransformationExtraArgs:
    return reduce_on_plateau(
        factor=config.learning_rate_drop_factor, patience=config.plateau_evaluations
    )


def _unreduced(config: ConfigDict, params: optax.Params) -> ReduceLROnPlateauState:
    """Returns the state before the first evaluation, finite as that of all checkpoints."""
    state = _reduction(config).init(params)
    return state._replace(best_value=jnp.full_like(state.best_value, 1e38))


def _scaled(
    updates: optax.Updates, plateau: ReduceLROnPlateauState, params: optax.Params | None = None
) -> tuple[optax.Updates, ReduceLROnPlateauState]:
    return jax.tree.map(lambda update: plateau.scale * update, updates), plateau


def _rule(config: ConfigDict, rate: optax.Schedule) -> optax.GradientTransformation:
    """Builds the optimiser without clipping and factors: equal to PyTorch's and timm's.

    Lamb adapts the rate of parameters with decay alone, as in timm. Muon is for the kernels of
    convolutions; the other parameters have Adam with Nesterov momentum.
    """
    name, decay = config.optimizer, config.weight_decay
    mask = is_kernel if config.weight_decay_on == "kernels" else None
    if name == "sgd":
        return sgd(rate, config.momentum, decay, config.nesterov, mask)
    betas, epsilon = _MOMENTS[name]
    betas = config.betas or betas
    epsilon = epsilon if config.epsilon is None else config.epsilon
    if name == "adamw":
        return optax.adamw(rate, *betas, epsilon, weight_decay=decay, mask=mask)
    if name == "lion":
        return optax.lion(rate, *betas, weight_decay=decay, mask=mask)
    if name == "rmsprop":
        return optax.chain(
            optax.add_decayed_weights(decay, mask),
            optax.rmsprop(rate, *betas, epsilon, initial_scale=1.0, momentum=config.momentum),
        )
    if name == "lamb":
        ratio = optax.stateless(_scaled_by_trust)
        adapted = [optax.masked(ratio, mask) if mask else ratio] if decay else []
        return optax.chain(
            optax.scale_by_adam(*betas, epsilon),
            optax.add_decayed_weights(decay, mask),
            *adapted,
            optax.scale_by_learning_rate(rate),
        )
    direction = muon(
        1.0,
        adam_b1=betas[0],
        adam_b2=betas[1],
        eps=epsilon,
        muon_weight_dimension_numbers=_convolutions,
        consistent_rms=_MUON_RMS,
    )
    return optax.chain(
        direction, optax.add_decayed_weights(-decay, mask), optax.scale_by_schedule(rate)
    )


def unfrozen(opt_state: optax.OptState, first: optax.OptState) -> optax.OptState:
    """Returns the state of the optimiser at the end of freezing.

    Args:
      opt_state: the state of the parameters trained so far, with None for the others.
      first: the first state of all parameters. It replaces None, and the moments of Adam and Muon,
        whose correction counts the steps of all parameters together.
    """

    def begins(state: Any) -> bool:
        return state is None or isinstance(state, optax.ScaleByAdamState | MuonState)

    return jax.tree.map(
        lambda old, new: new if begins(old) else old, opt_state, first, is_leaf=begins
    )


def _scaled_by_trust(updates: optax.Updates, params: optax.Params) -> optax.Updates:
    """Multiplies each update by the norm of its parameter, and divides it by its own norm.

    Blocks that are compiled as one have a leading axis of blocks, with a norm for each.
    """

    def one(path: KeyPath, update: jax.Array, param: jax.Array) -> jax.Array:
        whole = (2, 4) if path_of(path).endswith("kernel") else (1,)
        axes = tuple(range(0 if param.ndim in whole else 1, param.ndim))
        norms = [jnp.sqrt(jnp.square(x).sum(axes, keepdims=True)) for x in (param, update)]
        is_zero = (norms[0] == 0) | (norms[1] == 0)
        return update * jnp.where(is_zero, 1, norms[0] / jnp.where(is_zero, 1, norms[1]))

    return tree_map_with_path(one, updates, params)


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float,
    weight_decay: float,
    nesterov: bool = True,
    mask: Any = None,
) -> optax.GradientTransformation:
    """Builds SGD as in PyTorch and Torch, with L2 decay of the parameters in `mask`, or of all."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.sgd(learning_rate, momentum=momentum or None, nesterov=nesterov and momentum > 0),
    )


def is_kernel(params: optax.Params) -> optax.Params:
    """Returns a tree like `params`: True for the kernels of convolutions and linear layers."""
    return tree_map_with_path(lambda path, _: path_of(path).endswith("kernel"), params)


def _convolutions(params: optax.Params) -> optax.Params:
    """Returns a tree like `params`: the axes of each convolution's matrix, None for the others.

    Kernels of blocks that are compiled as one have a leading axis of blocks.
    """
    axes = MuonDimensionNumbers(reduction_axis=(-4, -3, -2), output_axis=-1)
    return jax.tree.map(lambda leaf: axes if leaf.ndim >= 4 else None, params)


def _factors(config: ConfigDict, paths: list[str]) -> dict[str, float]:
    """Returns the factor of the updates of each parameter that has one."""
    factors = {
        path: [factor for pattern, factor in config.learning_rate_multipliers
               if re.search(pattern, path)]
        for path in paths
    }  # fmt: skip
    if config.layer_decay != 1:
        blocks = {path: _block(path) for path in paths}
        if not (numbers := [number for number in blocks.values() if number]):
            raise InputError(
                f"layer_decay is {config.layer_decay:g}, but {config.model.name} has no blocks: "
                "set it to 1"
            )
        last = max(numbers) + 1
        for path, number in blocks.items():
            factors[path].append(
                config.layer_decay ** (last - (last if number is None else number))
            )
    return {path: math.prod(of_path) for path, of_path in factors.items() if of_path}


def _block(path: str) -> int | None:
    """Returns the number of a parameter's block: 0 for the stem, None behind the last block."""
    if found := re.match(r"(?:blocks|stages|transitions)/(\d+)/", path):
        return int(found[1]) + 1
    return None if path.startswith(_BEHIND_BLOCKS) else 0


def _multiply(
    factors: dict[str, float], updates: optax.Updates, params: optax.Params
) -> optax.Updates:
    """Returns each update multiplied by the factor of its path."""

    def one(path: KeyPath, update: jax.Array) -> jax.Array:
        factor = factors.get(path_of(path))
        return update if factor is None else update * factor

    return tree_map_with_path(one, updates)
