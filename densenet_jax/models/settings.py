"""What the configs of all families have in common."""

import dataclasses
import functools
import typing

import jax.numpy as jnp

from densenet_jax.errors import InputError

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

    def check_least(self, **lows: int) -> None:
        """Raises InputError if a field, or one of its numbers, is below its least value."""
        for field, low in lows.items():
            value = getattr(self, field)
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and number < low:
                    raise InputError(f"{field} is {value}: it must be at least {low}.")
