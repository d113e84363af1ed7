"""The base config of every experiment, and the one function that derives the rest from it."""

import math
import typing

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, config_dict

from densenet_jax.errors import InputError
from densenet_jax.models.catalog import model_config
from densenet_jax.models.densenet import DenseNetConfig

# Model fields that the top level (dtype) decides.
_NOT_IN_MODEL_GROUP = ("dtype", "param_dtype")


def base_config() -> ConfigDict:
    """The CIFAR recipe of section 4.2, with the model and the data left to each experiment.

    epochs (300)               passes over the training set
    batch_size (64)            images a step, over all devices
    learning_rate (0.1)        at the start
    learning_rate_drops (0.5, 0.75)
                               divide it by 10 from these fractions of the epochs on
    weight_decay (1e-4)        L2, on every parameter
    momentum (0.9)             of SGD, Nesterov's
    seed (0)                   of initialisation, order, augmentation and dropout
    dtype ("float32")          of convolutions and feature maps: float32, bfloat16, float64
    eval_batch_size (250)      images a step of evaluation
    eval_every_epochs (1)      evaluate after every so many epochs, and after the last
    checkpoint_every_epochs (10)
                               save after every so many epochs, and after the last
    steps_per_dispatch (0)     training steps a dispatch; 0: 1 on CPU, else 100
    model.name                 a name of the catalogue
    model.FIELD                any field of its config; unset: the catalogue's value
    data.name                  digits, fashion_mnist, cifar10, cifar100, svhn, synthetic,
                               synthetic_imagenet
    data.directory             where the set lies; unset: the set's usual place, if it has one
    data.holdout (0)           training images held out for validation
    data.augment (False)       shift and flip training images at random
    data.crop_padding (4)      zeros added on each side before the random crop
    data.flip (True)           flip half of the images left to right
    """
    config = ConfigDict(
        dict(
            epochs=300,
            batch_size=64,
            learning_rate=0.1,
            learning_rate_drops=(0.5, 0.75),
            weight_decay=1e-4,
            momentum=0.9,
            seed=0,
            dtype="float32",
            eval_batch_size=250,
            eval_every_epochs=1,
            checkpoint_every_epochs=10,
            steps_per_dispatch=0,
            model={"name": config_dict.placeholder(str)},
            data=dict(
                name=config_dict.placeholder(str),
                directory=config_dict.placeholder(str),
                holdout=0,
                augment=False,
                crop_padding=4,
                flip=True,
            ),
        )
    )
    for field, kind in typing.get_type_hints(DenseNetConfig).items():
        if field not in _NOT_IN_MODEL_GROUP:
            config.model[field] = config_dict.placeholder(_plain_type(kind))
    return config.lock()


def _plain_type(kind) -> type:
    """int of `int | None`, str of a Literal, tuple of `tuple[int, ...]`."""
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return str
    if origin is tuple:
        return tuple
    return _plain_type(options[0]) if options else kind


def steps_per_epoch(config: ConfigDict, examples: int) -> int:
    """Steps for one pass over `examples` training images; the last may be a short batch."""
    return math.ceil(examples / config.batch_size)


def drop_steps(config: ConfigDict, examples: int) -> tuple[int, ...]:
    """The steps from which the learning rate is a tenth of what it was.

    Indexed as in the authors' code: counting epochs from 1, the rate drops *in* epoch
    `ceil(fraction * epochs)`. Of 300 epochs, 149 run at the first rate, 75 at the second and 76 at
    the third.
    """
    # Rounded, as 0.55 * 100 is a little more than 55.
    first_epochs = [math.ceil(round(f * config.epochs, 9)) for f in config.learning_rate_drops]
    return tuple((epoch - 1) * steps_per_epoch(config, examples) for epoch in first_epochs)


def model_settings(config: ConfigDict) -> dict:
    """The fields of the model's config that `config` sets, without the name."""
    settings = {k: v for k, v in config.model.items() if k != "name" and v is not None}
    dtype = jnp.dtype(config.dtype)
    wide = jnp.promote_types(dtype, jnp.float32)
    return settings | dict(dtype=dtype.type, param_dtype=wide.type)


def check_config(config: ConfigDict) -> None:
    """Raises InputError for what no data set and no device could make right."""
    for key in ("epochs", "batch_size", "eval_batch_size", "eval_every_epochs",
                "checkpoint_every_epochs"):  # fmt: skip
        if config[key] < 1:
            raise InputError(f"{key} is {config[key]}: it must be at least 1.")
    for key in ("learning_rate", "weight_decay", "momentum", "seed", "steps_per_dispatch"):
        if not (config[key] >= 0 and math.isfinite(config[key])):
            raise InputError(f"{key} is {config[key]}: it must be a number of at least 0.")
    if config.seed >= 2**31:
        raise InputError(f"seed is {config.seed}: it must be below 2 ** 31.")
    if config.data.crop_padding < 0:
        raise InputError(f"data.crop_padding is {config.data.crop_padding}: it must be at least 0.")
    if any(not 0 < fraction <= 1 for fraction in config.learning_rate_drops):
        raise InputError(
            f"learning_rate_drops is {config.learning_rate_drops}: fractions of the epochs, "
            "above 0 and at most 1."
        )
    if config.dtype not in ("float32", "bfloat16", "float64"):
        raise InputError(f"dtype is {config.dtype!r}: choose float32, bfloat16 or float64.")
    if config.dtype == "float64" and not jax.config.jax_enable_x64:
        raise InputError("dtype float64 needs JAX_ENABLE_X64=1 in the environment.")
    for key in ("model.name", "data.name"):
        group, name = key.split(".")
        if not config[group][name]:
            raise InputError(f"the config names no {key}; set it with --config.{key}=NAME.")
    model_config(config.model.name, **model_settings(config)).blocks  # noqa: B018  raises
