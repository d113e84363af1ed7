"""The base config of every experiment, and the one function that derives the rest from it."""

import functools
import math
import re
import types
import typing
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FieldReference, config_dict

from densenet_jax.data.pictures import MAX_PIXELS, MAX_SIDE
from densenet_jax.errors import InputError
from densenet_jax.models.catalog import FAMILIES, model_config
from densenet_jax.models.statistics import check_groups

CHOICES = {
    "dtype": ("float32", "bfloat16", "float64"),
    "learning_rate_schedule": ("steps", "cosine"),
    "loss": ("cross_entropy", "squared_hinge"),
    "report": ("last_epoch", "best_validation"),
    "data.preprocessing": ("standardize", "gcn", "gcn_zca"),
    "data.padding_mode": ("zeros", "reflect"),
    "data.random_crop": ("padded", "resized"),
}
# The least and the largest value of each number; data set and network bound some of them further.
BOUNDS = {
    "epochs": (1, 10**6),
    "batch_size": (1, 2**20),
    "learning_rate": (0, 1e38),
    "learning_rate_drop_factor": (0, 1e38),
    "warmup_epochs": (0, 1e6),
    "warmup_learning_rate": (0, 1e38),
    "weight_decay": (0, 1e38),
    "momentum": (0, 1e38),
    "label_smoothing": (0, 1),
    "companion_weight": (0, 1e38),
    "companion_fade": (0, 1e38),
    "seed": (0, 2**31 - 1),
    "eval_batch_size": (1, 2**20),
    "eval_every_epochs": (1, 10**6),
    "checkpoint_every_epochs": (1, 10**6),
    "steps_per_dispatch": (0, 10**6),
    "data.holdout": (0, 2**31 - 1),
    "data.examples": (0, 2**31 - 1),
    "data.image_size": (1, MAX_SIDE),
    "data.crop_padding": (0, MAX_SIDE),
    "data.color_jitter": (0, 1),
    "data.lighting": (0, 1e6),
    "data.workers": (0, 1024),
    "data.max_pixels": (1, 2**40),
}
# Names of `jax.default_matmul_precision`, without those of single algorithms.
MATMUL_PRECISIONS = ("default", "high", "highest", "bfloat16", "tensorfloat32", "float32")
# Keys that name a file or a directory. `init_from` may also be hf:REPOSITORY.
PATHS = ("init_from", "data.directory")
_FLOATS = {key for key, bounds in BOUNDS.items() if float in map(type, bounds)} | {
    "label_smoothing",
    "data.color_jitter",
}
# Model fields that the top level (dtype) decides.
_NOT_IN_MODEL_GROUP = ("dtype", "param_dtype")


def base_config() -> ConfigDict:
    """The CIFAR recipe of section 4.2, with the model and the data left to each experiment.

    Keys without a default here, and all fields of the model, are optional: None means unset.

    epochs (300)               passes over the training set
    batch_size (64)            images a step, over all devices
    learning_rate (0.1)        at the start
    learning_rate_schedule ("steps")
                               "steps" drops it, "cosine" takes it to 0 along half a cosine
    learning_rate_drops (0.5, 0.75)
                               drop it from these fractions of the epochs on
    learning_rate_drop_factor (0.1)
                               what a drop multiplies it by
    learning_rate_multipliers ()
                               pairs of a regular expression and a factor, for parameters whose
                               path ("convs/8/bias") has a part that matches; 0 keeps the weights,
                               but the running statistics of BatchNorm still follow the new
                               pictures
    warmup_epochs (0.0)        train so long at the next rate first
    warmup_learning_rate (0.01)
    weight_decay (1e-4)        L2, on every parameter
    momentum (0.9)             of SGD
    nesterov (True)            whether the momentum is Nesterov's
    loss ("cross_entropy")     or "squared_hinge", one class against the rest
    label_smoothing (0.0)      of the cross-entropy's target, shared equally by all classes
    companion_weight (0.001)   of the losses of companions, in a network that has them, at the start
    companion_fade (0.25)      fraction of the epochs after which that weight has fallen to 0
    init_from                  begin with the weights of this file (PyTorch's names), hf:REPOSITORY
                               or run directory; a head that does not fit stays new
    seed (0)                   of initialisation, order, augmentation and dropout
    dtype ("float32")          of convolutions and feature maps: float32, bfloat16, float64
    matmul_precision           of float32 products and convolutions, by JAX's names: default, high,
                               highest, bfloat16, tensorfloat32, float32; unset: JAX's default,
                               which is TF32 on NVIDIA GPUs and bfloat16 on TPUs
    deterministic (False)      on GPUs: use only kernels that give the same bits each time, and
                               choose them without autotuning; steps may be slower
    eval_batch_size (250)      images a step of evaluation
    eval_every_epochs (1)      evaluate after every so many epochs, and after the last
    checkpoint_every_epochs (10)
                               save after every so many epochs, and after the last
    report ("last_epoch")      whose test error is the result's, or "best_validation": that of the
                               epoch with the lowest validation error
    steps_per_dispatch (0)     training steps a dispatch; 0: 1 on CPU, else at most 100 that divide
                               the epoch equally; of streamed pictures always 1
    model.name                 a name of the catalogue
    model.FIELD                any field of its config; unset: the catalogue's value
    data.name                  digits, fashion_mnist, cifar10, cifar100, svhn, synthetic,
                               synthetic_imagenet, imagenet, folder
    data.directory             where the set lies; unset: the set's usual place, if it has one
    data.holdout (0)           training images held out for validation
    data.examples (0)          train on so many of the others only, the first; 0: on all. Synthetic
                               sets grow to this size
    data.image_size (224)      side of what is cut out of the pictures of a folder, in pixels
    data.preprocessing ("standardize")
                               by mean and deviation of each channel; "gcn": the contrast of each
                               image; "gcn_zca": whitened after that
    data.drop_last (False)     leave out the short last batch of an epoch
    data.augment (False)       shift and flip training images at random
    data.random_crop ("padded")
                               "padded" on each side before; or "resized", a box of any size and
                               place in a picture of imagenet or a folder
    data.crop_padding (4)      pixels added on each side before the random crop
    data.padding_mode ("zeros")
                               "zeros", or "reflect" the image
    data.flip (True)           flip half of the images left to right
    data.color_jitter (0.0)    change brightness, contrast and saturation by up to this fraction
    data.lighting (0.0)        deviation of random light along the principal components of colours
    data.ten_crops (False)     evaluate pictures by ten crops as well, at the end
    data.workers               processes that read pictures; 0: threads; unset: as suits the host
    data.skip_broken (False)   skip pictures that cannot be read
    data.max_pixels (178956970)
                               pixels of the largest picture that is decoded
    """
    config = _config_dict(_KEYS)
    for field, kind in _model_fields().items():
        config.model[field] = config_dict.placeholder(kind)
    return config.lock()


# The default of each key; the type of an optional one.
_KEYS = dict(
    epochs=300,
    batch_size=64,
    learning_rate=0.1,
    learning_rate_schedule="steps",
    learning_rate_drops=(0.5, 0.75),
    learning_rate_drop_factor=0.1,
    learning_rate_multipliers=(),
    warmup_epochs=0.0,
    warmup_learning_rate=0.01,
    weight_decay=1e-4,
    momentum=0.9,
    nesterov=True,
    loss="cross_entropy",
    label_smoothing=0.0,
    companion_weight=0.001,
    companion_fade=0.25,
    init_from=str,
    seed=0,
    dtype="float32",
    matmul_precision=str,
    deterministic=False,
    eval_batch_size=250,
    eval_every_epochs=1,
    checkpoint_every_epochs=10,
    report="last_epoch",
    steps_per_dispatch=0,
    model={"name": str},
    data=dict(
        name=str,
        directory=str,
        holdout=0,
        examples=0,
        image_size=224,
        preprocessing="standardize",
        drop_last=False,
        augment=False,
        crop_padding=4,
        padding_mode="zeros",
        flip=True,
        random_crop="padded",
        color_jitter=0.0,
        lighting=0.0,
        ten_crops=False,
        workers=int,
        skip_broken=False,
        max_pixels=MAX_PIXELS,
    ),
)


def _config_dict(values: dict) -> ConfigDict:
    """Builds a ConfigDict in which a type stands for an optional key."""
    config = ConfigDict()
    for key, value in values.items():  # ConfigDict(values) takes ten times as long.
        if isinstance(value, dict):
            value = _config_dict(value)
        config[key] = config_dict.placeholder(value) if isinstance(value, type) else value
    return config


@functools.cache
def _model_fields() -> dict[str, type]:
    """Returns the fields of all families that a config can set, with their types."""
    hints = [typing.get_type_hints(family) for family in FAMILIES]
    fields = {field: kind for found in hints for field, kind in found.items()}
    return {f: _plain_type(kind) for f, kind in fields.items() if f not in _NOT_IN_MODEL_GROUP}


def _plain_type(kind) -> type:
    """int of `int | None`, str of a Literal, tuple of `tuple[int, ...]`."""
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return str
    if origin is tuple:
        return tuple
    return _plain_type(options[0]) if options else kind


@functools.cache
def defaults() -> Mapping[str, object]:
    """Returns the base config, flat: {"epochs": 300, ...}; None for optional keys."""
    return types.MappingProxyType(flatten(base_config()))


def flatten(config: ConfigDict, prefix: str = "") -> dict:
    """{"model.growth_rate": 12, ...}."""
    flat = {}
    # Resolving references here takes two thirds of the time that ConfigDict takes.
    for key, value in config.items(preserve_field_references=True):
        if isinstance(value, FieldReference):
            value = value.get()
        if isinstance(value, ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def check_none(values: dict) -> None:
    """Raises InputError if a key of a flat config that is not optional is None."""
    for key, default in defaults().items():
        if default is not None and values.get(key, default) is None:
            raise InputError(f"{key} is None: give it a value, such as its default {default!r}")


def steps_per_epoch(config: ConfigDict, examples: int) -> int:
    """Steps for one pass over `examples` training images; the last may be a short batch."""
    steps = examples / config.batch_size
    return math.floor(steps) if config.data.drop_last else math.ceil(steps)


def drop_steps(config: ConfigDict, examples: int) -> tuple[int, ...]:
    """The steps from which the learning rate is multiplied by the drop factor.

    Indexed as in the authors' code: counting epochs from 1, the rate drops *in* epoch
    `ceil(fraction * epochs)`. Of 300 epochs, 149 run at the first rate, 75 at the second and 76 at
    the third.
    """
    # Rounded, as 0.55 * 100 is a little more than 55.
    first_epochs = [math.ceil(round(f * config.epochs, 9)) for f in config.learning_rate_drops]
    return tuple((epoch - 1) * steps_per_epoch(config, examples) for epoch in first_epochs)


def model_overrides(config: ConfigDict) -> dict:
    """Returns the fields of the network's config that `config` sets, without the name."""
    return {k: v for k, v in config.model.items() if k != "name" and v is not None}


def model_settings(config: ConfigDict) -> dict:
    """Returns `model_overrides`, and the types of the network's arrays."""
    dtype = jnp.dtype(config.dtype)
    wide = jnp.promote_types(dtype, jnp.float32)
    return model_overrides(config) | dict(dtype=dtype.type, param_dtype=wide.type)


def check_config(config: ConfigDict) -> None:
    """Raises InputError for what no data set and no device could make right."""
    values = flatten(config)
    if missing := defaults().keys() - values.keys():
        raise InputError(f"the config has no key {min(missing)!r}: begin it with base_config()")
    check_none(values)
    _check_numbers(values)
    for key, choices in CHOICES.items():
        value = values[key]
        if value not in choices:
            raise InputError(f"{key} is {value!r:.200}: choose one of {', '.join(choices)}.")
    if config.matmul_precision not in (None, *MATMUL_PRECISIONS):
        raise InputError(
            f"matmul_precision is {config.matmul_precision!r}: choose one of "
            f"{', '.join(MATMUL_PRECISIONS)}, or None for JAX's default"
        )
    if config.label_smoothing and config.loss != "cross_entropy":
        raise InputError(f"label_smoothing is for the loss cross_entropy, not for {config.loss}.")
    drops = config.learning_rate_drops
    if not all(isinstance(drop, int | float) and 0 < drop <= 1 for drop in drops):
        raise InputError(
            f"learning_rate_drops is {drops}: fractions of the epochs, above 0 and at most 1."
        )
    _check_multipliers(config.learning_rate_multipliers)
    if config.report == "best_validation" and not config.data.holdout:
        raise InputError("report 'best_validation' needs images to validate on: set data.holdout.")
    if config.dtype == "float64" and not jax.config.jax_enable_x64:
        raise InputError("dtype float64 needs JAX_ENABLE_X64=1 in the environment.")
    for key in ("model.name", "data.name"):
        group, name = key.split(".")
        if not config[group][name]:
            raise InputError(f"the config names no {key}; set it with --config.{key}=NAME.")
    model = model_config(config.model.name, **model_settings(config))
    check_groups(config.batch_size, getattr(model, "bn_group_size", 0))


def _check_numbers(values: dict) -> None:
    """Raises InputError for a number of another type than its default's, or beyond its bounds."""
    for key, (least, most) in BOUNDS.items():
        value = values[key]
        if value is None:  # Only data.workers may be.
            continue
        is_number = type(value) is int or (type(value) is float and key in _FLOATS)
        if not is_number or not least <= value <= most:
            kind = "a number" if key in _FLOATS else "an integer"
            raise InputError(
                f"{key} is {value!r:.200}: use {kind} from {_shown(least)} to {_shown(most)}"
            )


def _shown(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) else f"{number:,}"


def _check_multipliers(multipliers: tuple) -> None:
    try:
        for pattern, factor in multipliers:
            re.compile(pattern)
            if not (factor >= 0 and math.isfinite(factor)):
                raise ValueError(f"{factor} is no number of at least 0")
    except (TypeError, ValueError, OverflowError, re.error) as error:
        raise InputError(
            f"learning_rate_multipliers is {multipliers}: pairs of a regular expression and a "
            f"factor, such as (('bias$', 2.0),) ({error})."
        ) from error
