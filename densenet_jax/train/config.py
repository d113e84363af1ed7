"""The base config of every experiment, its checks, and the values derived from a config."""

import functools
import math
import re
import typing
from collections.abc import Mapping
from types import MappingProxyType, UnionType
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FieldReference, config_dict

from densenet_jax.errors import InputError, counted
from densenet_jax.models.catalog import FAMILIES, model_config
from densenet_jax.models.network import NetworkConfig
from densenet_jax.models.statistics import check_groups
from densenet_jax.train.keys import KEYS, Key

# Optimisers with each key that not all of them have.
_OPTIMIZERS_WITH = MappingProxyType(
    {
        "momentum": ("sgd", "rmsprop"),
        "nesterov": ("sgd",),
        "betas": ("adamw", "lamb", "lion", "muon"),
        "epsilon": ("adamw", "lamb", "muon", "rmsprop"),
    }
)

# Model fields that the top level (dtype) decides.
_NOT_IN_MODEL_GROUP = ("dtype", "param_dtype")


def base_config() -> ConfigDict:
    """Builds the CIFAR recipe of section 4.2; each experiment chooses the network and the data.

    `KEYS` describes the keys. The fields of the network are optional, as are keys without a
    default: None means unset.
    """
    config = ConfigDict()
    config.model, config.data = ConfigDict(), ConfigDict()
    for key, row in all_keys().items():
        group, _, name = key.rpartition(".")
        value = config_dict.placeholder(row.optional) if row.optional else row.default
        (config[group] if group else config)[name] = value
    return config.lock()


@functools.cache
def all_keys() -> MappingProxyType[str, Key]:
    """Returns `KEYS` and model.FIELD for the fields of all network families."""
    model_keys = {key: row for family in FAMILIES for key, row in family_keys(family).items()}
    return MappingProxyType(KEYS | model_keys)


def family_keys(family: type) -> MappingProxyType[str, Key]:
    """Returns the keys of one network family: {"model.growth_rate": ..., ...}."""
    hints = typing.get_type_hints(family)
    return MappingProxyType(
        {
            f"model.{field}": Key(None, "", optional=_plain_type(hint), choices=_choices(hint))
            for field, hint in hints.items()
            if field not in _NOT_IN_MODEL_GROUP
        }
    )


def _choices(hint: object) -> tuple[str, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def _plain_type(hint: object) -> type:
    """Returns int for `int | None`, str for a Literal, tuple for `tuple[int, ...]`."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return str
    if origin in (typing.Union, UnionType):
        [hint] = [option for option in typing.get_args(hint) if option is not type(None)]
        return _plain_type(hint)
    kind = origin or hint
    assert isinstance(kind, type)
    return kind


@functools.cache
def defaults() -> MappingProxyType[str, Any]:
    """Returns the base config, flat: {"epochs": 300, ...}; None for optional keys."""
    return MappingProxyType(flatten(base_config()))


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Returns the values of `config` by their full keys: {"model.growth_rate": 12, ...}."""
    flat: dict[str, Any] = {}
    # Resolving references here takes a third less time than in ConfigDict.
    for key, value in config.items(preserve_field_references=True):
        if isinstance(value, FieldReference):
            value = value.get()
        if isinstance(value, ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def check_none(values: Mapping[str, object]) -> None:
    """Raises InputError if a flat config has None for a key that is not optional."""
    for key, default in defaults().items():
        if default is not None and values.get(key, default) is None:
            raise InputError(f"{key} is None: give it a value, such as its default {default!r}")


def steps_per_epoch(config: ConfigDict, examples: int) -> int:
    """Returns the number of steps in an epoch of `examples` training images."""
    steps = examples / config.batch_size
    return math.floor(steps) if config.data.drop_last else math.ceil(steps)


def drop_steps(config: ConfigDict, examples: int) -> tuple[int, ...]:
    """Returns the steps at which the learning rate drops.

    As in the authors' code, the rate drops at the start of epoch `ceil(fraction * epochs)`, counted
    from 1. Of 300 epochs, 149 run at the first rate, 75 at the second and 76 at the third.
    """
    # Rounded, because 0.55 * 100 is a little more than 55.
    first_epochs = [math.ceil(round(f * config.epochs, 9)) for f in config.learning_rate_drops]
    return tuple((epoch - 1) * steps_per_epoch(config, examples) for epoch in first_epochs)


def snapshot_steps(config: ConfigDict, examples: int) -> tuple[int, ...]:
    """Returns the steps whose checkpoints are snapshots: the ends of several cycles."""
    if (cycles := config.learning_rate_cycles) == 1:
        return ()
    steps = config.epochs // cycles * steps_per_epoch(config, examples)
    return tuple(steps * cycle for cycle in range(1, cycles + 1))


def model_overrides(config: ConfigDict) -> dict:
    """Returns the fields of the network's config that `config` sets, without the name."""
    return {k: v for k, v in config.model.items() if k != "name" and v is not None}


def model_settings(config: ConfigDict) -> dict:
    """Returns `model_overrides`, and the types of the network's arrays."""
    dtype = jnp.dtype(config.dtype)
    wide = jnp.promote_types(dtype, jnp.float32)
    return model_overrides(config) | dict(dtype=dtype.type, param_dtype=wide.type)


def check_config(config: ConfigDict) -> None:
    """Raises InputError for values that no data set and no device can make right."""
    values = flatten(config)
    if missing := defaults().keys() - values.keys():
        raise InputError(f"the config has no key {min(missing)!r}: begin it with base_config()")
    check_none(values)
    for key, row in KEYS.items():
        if not row.accepts(values[key]):
            raise refusal(key, values[key])
    if config.label_smoothing and config.loss != "cross_entropy":
        raise InputError(
            f"label_smoothing is {config.label_smoothing}, but the loss is {config.loss!r}: set "
            "label_smoothing to 0, or loss to 'cross_entropy'"
        )
    if config.class_weights and (config.loss == "squared_hinge" or config.label_smoothing):
        raise InputError(
            f"class_weights is {config.class_weights!r}: unset it, or use the loss 'cross_entropy' "
            "without label_smoothing, or 'sigmoid'"
        )
    if config.data.labels and config.data.name != "folder":
        raise InputError(
            f"data.labels is for data set 'folder', not for {config.data.name}: unset it"
        )
    drops = config.learning_rate_drops
    if not all(isinstance(drop, int | float) and 0 < drop <= 1 for drop in drops):
        raise InputError(
            f"learning_rate_drops is {drops!r}: use fractions of the epochs, above 0 and at most 1"
        )
    _check_multipliers(config.learning_rate_multipliers)
    _check_optimizer(config)
    _check_averages(config)
    _check_freezing(config)
    _check_validation(config)
    _check_cycles(config)
    if config.learning_rate_schedule == "plateau":
        _check_plateau(config)
    if config.dtype == "float64" and not jax.config.values["jax_enable_x64"]:
        raise InputError(
            "dtype is 'float64', but 64-bit types are off: set JAX_ENABLE_X64=1 in the environment"
        )
    for key in ("model.name", "data.name"):
        if not values[key]:
            raise InputError(f"{key} is {values[key]!r}: set it with --config.{key}=NAME")
    if config.batch_size % config.accumulate:
        raise InputError(
            f"batch_size {config.batch_size} cannot be divided into {config.accumulate} parts: use "
            "a multiple of accumulate"
        )
    model = model_config(config.model.name, **model_settings(config))
    _check_budget(config, model)
    check_groups(config.batch_size // config.accumulate, getattr(model, "bn_group_size", 0))


def _check_optimizer(config: ConfigDict) -> None:
    betas = config.betas
    if betas and not (
        len(betas) == 2 and all(isinstance(b, int | float) and 0 <= b < 1 for b in betas)
    ):
        raise InputError(
            f"betas is {betas!r}: use two numbers of at least 0 and below 1, such as (0.9, 0.999)"
        )
    for key, optimizers in _OPTIMIZERS_WITH.items():
        if config[key] != KEYS[key].default and config.optimizer not in optimizers:
            raise InputError(
                f"{key} is {config[key]!r}, which {config.optimizer} does not have: unset it, or "
                f"use {' or '.join(optimizers)}"
            )
    final = config.final_learning_rate
    if final and config.learning_rate_schedule != "cosine":
        raise InputError(
            f"final_learning_rate is {final:g}, but learning_rate_schedule is "
            f"{config.learning_rate_schedule!r}: set it to 'cosine', or final_learning_rate to 0"
        )
    if final > config.learning_rate:
        raise InputError(
            f"final_learning_rate is {final:g}, above learning_rate {config.learning_rate:g}: "
            "lower it"
        )
    if config.warmup_epochs >= config.epochs:
        raise InputError(
            f"warmup_epochs is {config.warmup_epochs:g} of {counted(config.epochs, 'epoch')}, so "
            "that the schedule never begins: use fewer, or 0"
        )
    if config.learning_rate_schedule == "one_cycle" and config.warmup_epochs:
        raise InputError(
            f"warmup_epochs is {config.warmup_epochs:g}, but the schedule 'one_cycle' begins with "
            "a warm-up: set warmup_epochs to 0"
        )


def _check_budget(config: ConfigDict, model: NetworkConfig) -> None:
    if config.memory_gb and config.model.remat:
        raise InputError(
            f"memory_gb is {config.memory_gb:g}, which chooses model.remat, but model.remat is "
            f"{config.model.remat!r}: unset one of them"
        )
    if config.memory_gb and not hasattr(model, "remat"):
        raise InputError(
            f"memory_gb is {config.memory_gb:g}, but {config.model.name} has no model.remat to "
            "choose: set memory_gb to 0, and lower batch_size or raise accumulate"
        )


def _check_averages(config: ConfigDict) -> None:
    if not config.swa_epochs:
        return
    for key in ("ema_decay", "early_stopping_epochs"):
        if config[key]:
            raise InputError(
                f"swa_epochs is {config.swa_epochs} and {key} {config[key]:g}: set one of them to 0"
            )
    most = config.epochs - config.freeze_epochs
    if config.swa_epochs > most:
        unfrozen = " without freezing" if config.freeze_epochs else ""
        raise InputError(
            f"swa_epochs is {config.swa_epochs} of {counted(most, 'epoch')}{unfrozen}: use at most "
            f"{most}"
        )


def _check_freezing(config: ConfigDict) -> None:
    if config.freeze_epochs and not config.freeze:
        raise InputError(
            f"freeze_epochs is {config.freeze_epochs}, but freeze is unset: set freeze as well"
        )
    if config.freeze_epochs >= config.epochs:
        raise InputError(
            f"freeze_epochs is {config.freeze_epochs} of {counted(config.epochs, 'epoch')}: use "
            "fewer epochs, or 0 to freeze to the end"
        )
    try:
        re.compile(config.freeze or "")
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(
            f"freeze is {config.freeze!r}, which is no regular expression ({error}): use for "
            "example '^(conv0|norm0|blocks/0)/'"
        ) from error


def _check_validation(config: ConfigDict) -> None:
    data = config.data
    if data.folds == 1:
        raise InputError("data.folds is 1, which leaves no training images: use at least 2")
    if data.folds and data.holdout:
        raise InputError(
            f"data.folds is {data.folds} and data.holdout {data.holdout}, but a fold is held out: "
            "set data.holdout to 0"
        )
    if data.fold >= max(data.folds, 1):
        numbers = f"use 0 to {data.folds - 1}" if data.folds else "set data.folds to 2 or more"
        raise InputError(f"data.fold is {data.fold}, but data.folds is {data.folds}: {numbers}")
    if data.holdout_stratified and not data.holdout:
        raise InputError("data.holdout_stratified is True, but data.holdout is 0: set data.holdout")
    needs_images = {
        "report": config.report == "best_validation",
        "early_stopping_epochs": config.early_stopping_epochs > 0,
        "learning_rate_schedule": config.learning_rate_schedule == "plateau",
    }
    for key, needed in needs_images.items():
        if needed and not (data.holdout or data.folds):
            raise InputError(
                f"{key} is {config[key]!r}, but there are no validation images: set data.holdout "
                "or data.folds"
            )


def _check_cycles(config: ConfigDict) -> None:
    cycles, epochs = config.learning_rate_cycles, config.epochs
    if cycles == 1:
        return
    needed = {"learning_rate_schedule": "cosine", "warmup_epochs": 0, "early_stopping_epochs": 0}
    needed |= {"report": "last_epoch", "swa_epochs": 0}
    for key, value in needed.items():
        if config[key] != value:
            raise InputError(
                f"learning_rate_cycles is {cycles}, but {key} is {config[key]!r}: set {key} to "
                f"{value!r}, or learning_rate_cycles to 1"
            )
    if epochs % cycles:
        raise InputError(
            f"learning_rate_cycles is {cycles}, which does not divide {counted(epochs, 'epoch')}: "
            "use a divisor of the epochs, because snapshots are saved at the ends of epochs"
        )


def _check_plateau(config: ConfigDict) -> None:
    if not 0 < config.learning_rate_drop_factor < 1:
        raise InputError(
            f"learning_rate_drop_factor is {config.learning_rate_drop_factor:g}, but the schedule "
            "'plateau' lowers the rate: use a factor between 0 and 1"
        )
    epochs = config.plateau_evaluations * config.eval_every_epochs
    if 0 < config.early_stopping_epochs <= epochs:
        raise InputError(
            f"early_stopping_epochs is {config.early_stopping_epochs}, but the rate drops only "
            f"after {counted(config.plateau_evaluations, 'evaluation')} on a plateau: raise it "
            f"above {epochs}, or lower plateau_evaluations"
        )


def refusal(key: str, value: object) -> InputError:
    """Returns the error for a value that its key does not accept."""
    # The config of a run, or of a user, can have more keys.
    remedy = all_keys()[key].remedy if key in all_keys() else "use a value of the key's type"
    return InputError(f"{key} is {value!r:.200}: {remedy}")


def _check_multipliers(multipliers: tuple) -> None:
    try:
        for pattern, factor in multipliers:
            re.compile(pattern)
            if not (factor >= 0 and math.isfinite(factor)):
                raise ValueError(f"{factor!r} is not a finite factor of at least 0")
    except (TypeError, ValueError, OverflowError, re.error) as error:
        raise InputError(
            f"learning_rate_multipliers is {multipliers!r}: use pairs of a regular expression and "
            f"a factor, such as (('bias$', 2.0),) ({error})"
        ) from error
