"""What the configs of all families have in common."""

import dataclasses
import functools
import numbers
import types
import typing

import jax.numpy as jnp

from densenet_jax.errors import InputError

MAX_NUMBER = 2**17  # Of classes, channels and so on; ImageNet-21k has 21,841 classes.
MAX_LAYERS = 2048  # Of a depth, or of the blocks of a network; building more takes minutes.

Stem = typing.Literal["cifar", "imagenet"]

# Evaluating annotations takes longer than all checks of a config.
_type_hints = functools.cache(typing.get_type_hints)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What every network has; a family's config adds fields. InputError for impossible values.

    Attributes:
      num_classes, in_channels: sizes of the output and of the input.
      dtype: type of convolutions and feature maps.
      param_dtype: type of parameters, statistics and logits.
    """

    num_classes: int = 10
    in_channels: int = 3
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        for field, kind in _type_hints(type(self)).items():
            self._check_type(field, kind)
        self.check_least(num_classes=1, in_channels=1)
        for field, kind in _type_hints(type(self)).items():
            value = getattr(self, field)
            if field.endswith("_rate") and kind is float and not 0 <= value < 1:
                raise InputError(f"{field} is {value:g}: it must be at least 0 and below 1.")
            if isinstance(value, tuple) and not all(type(number) is int for number in value):
                raise InputError(f"{field} is {value}: it must be whole numbers, such as (6, 12).")
            allowed = typing.get_args(kind)
            if typing.get_origin(kind) is typing.Literal and value not in allowed:
                raise InputError(f"{field} is {value!r}: choose one of {', '.join(allowed)}.")

    def _check_type(self, field: str, kind: object) -> None:
        """Raises InputError if a field has another type than its own, or a number too large."""
        value, options = getattr(self, field), (kind,)
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            options = typing.get_args(kind)
        if not any(_is_of_type(value, option) for option in options):
            names = " or ".join(
                getattr(option, "__name__", str(option)).replace("NoneType", "None")
                for option in options
            )
            raise InputError(f"{field} is {value!r:.200}: it must be of type {names}")
        entries = value if isinstance(value, tuple | list) else (value,)
        counts = [entry for entry in entries if isinstance(entry, numbers.Integral)]
        most = MAX_LAYERS if field == "depth" else MAX_NUMBER
        if counts and max(counts) > most:
            raise InputError(f"{field} is {value!r:.200}: it must be at most {most:,}")
        if isinstance(value, tuple | list):
            layers = sum(counts) if field == "block_config" else len(value)
            if layers > MAX_LAYERS:
                raise InputError(f"{field} has {layers:,} layers: use at most {MAX_LAYERS:,}")

    def check_least(self, **lows: int) -> None:
        """Raises InputError if a field, or one of its numbers, is below its least value."""
        for field, low in lows.items():
            value = getattr(self, field)
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and number < low:
                    raise InputError(f"{field} is {value}: it must be at least {low}.")


def _is_of_type(value: object, kind: object) -> bool:
    """Whether a field of type `kind` takes `value`; JSON has no other types than these."""
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple | list)
    if typing.get_origin(kind) is typing.Literal:
        return isinstance(value, str)
    if kind is jnp.dtype:
        try:
            return jnp.issubdtype(jnp.dtype(value), jnp.floating)
        except TypeError:
            return False
    return isinstance(value, kind)
