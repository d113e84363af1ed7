"""The config and the base class that all families share."""

import dataclasses
import functools
import numbers
import types
import typing
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from densenet_jax.errors import InputError
from densenet_jax.models.layers import Identity, Mode

# Largest number of classes, channels and so on; ImageNet-21k has 21,841 classes.
MAX_NUMBER = 2**17
MAX_LAYERS = 2048  # Largest depth or number of blocks; building more layers takes minutes.

FLOAT32 = jnp.dtype("float32")

# 3x3 convolution, or 7x7 of stride 2 and then 3x3 max-pooling of stride 2.
Stem = typing.Literal["cifar", "imagenet"]


# Cached, because evaluating annotations takes longer than all checks of a config.
@functools.cache
def _type_hints(config_class: type) -> dict[str, Any]:
    return typing.get_type_hints(config_class)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The fields that every network has; a family's config adds its fields.

    Raises InputError for impossible values.

    Attributes:
      num_classes, in_channels: sizes of the output and of the input. Without classes, a network
        that ends in a linear classifier returns the features that this would read.
      dtype: type of convolutions and feature maps.
      param_dtype: type of parameters, statistics and logits.
    """

    num_classes: int = 10
    in_channels: int = 3
    dtype: jnp.dtype = FLOAT32
    param_dtype: jnp.dtype = FLOAT32
    bn_group_size = 0  # Families with BatchNorm make it a field.
    has_classifier = True  # Whether the network ends in a linear layer, `classifier`.

    def __post_init__(self) -> None:
        config_class: type = type(self)
        for field, kind in _type_hints(config_class).items():
            self._check_type(field, kind)
        self.check_least(num_classes=0 if self.has_classifier else 1, in_channels=1)
        for field, kind in _type_hints(config_class).items():
            value = getattr(self, field)
            if field.endswith("_rate") and kind is float and not 0 <= value < 1:
                raise InputError(f"{field} is {value:g}: it must be at least 0 and below 1")
            if isinstance(value, tuple) and not all(type(number) is int for number in value):
                raise InputError(f"{field} is {value}: it must be whole numbers, such as (6, 12)")

    def _check_type(self, field: str, kind: Any) -> None:
        """Raises InputError if a field has another type than its own, or a number too large."""
        value, options = getattr(self, field), (kind,)
        if typing.get_origin(kind) is typing.Literal:
            allowed = typing.get_args(kind)
            if not isinstance(value, str) or value not in allowed:
                raise InputError(f"{field} is {value!r:.200}: choose one of {', '.join(allowed)}")
            return
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            options = typing.get_args(kind)
        if not any(_is_of_type(value, option) for option in options):
            names = " or ".join(
                getattr(option, "__name__", str(option)).replace("NoneType", "None")
                for option in options
            )
            raise InputError(f"{field} is {value!r:.200}: it must be of type {names}")
        entries = value if isinstance(value, tuple | list) else (value,)
        counts = [int(entry) for entry in entries if isinstance(entry, numbers.Integral)]
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
                    raise InputError(f"{field} is {value}: it must be at least {low}")


def _is_of_type(value: Any, kind: Any) -> bool:
    """Returns whether a field of type `kind` takes `value`, for all types that JSON has."""
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple | list)
    if kind is jnp.dtype:
        try:
            return jnp.issubdtype(jnp.dtype(value), jnp.floating)
        except TypeError:
            return False
    return isinstance(value, kind)


class Network(nnx.Module):
    """An image classifier: images `[N, H, W, in_channels]` to logits `[N, num_classes]`.

    Without classes (`num_classes=0`) it returns features `[N, features]` instead.

    Attributes:
      config: the description from which the network was built.
      rngs: the source of dropout masks; None in a network without dropout.
      preprocessing: prepares pictures for a trained network (`data.pictures.Preprocessing`); None
        if unknown.
      classes: names of a trained network's classes, in the order of the logits; None if unknown.
      multilabel: whether a picture can have several of the classes.
    """

    # Whether the classifier reads the averages of the last of `feature_maps`.
    pools_last_map = False

    config: NetworkConfig
    rngs: nnx.Rngs | None = None
    preprocessing: Any = None
    classes: tuple[str, ...] | None = None
    multilabel: bool = False

    def __call__(
        self, images: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """Returns logits `[N, num_classes]` in `param_dtype`.

        Args:
          images: `[N, H, W, in_channels]`, normalised.
          train: use the batch's statistics, update the running statistics, and drop out.
          mask: `[N]`, in training: 1 for images that count in the statistics, 0 for padding.
        """
        return self.logits(images, self.mode(train, mask))

    def features(
        self, images: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Returns feature maps by name, `[N, H, W, C]` each, for use as a backbone.

        Under `jit` unused feature maps cost nothing. For the arguments see `__call__`.
        """
        maps = self.feature_maps(images, self.mode(train, mask))
        return {name: x.transpose(0, 2, 3, 1) for name, x in maps.items()}

    def logits(self, images: jax.Array, mode: Mode) -> jax.Array:
        """Returns the logits of a forward pass in `mode`."""
        raise NotImplementedError

    def feature_maps(self, images: jax.Array, mode: Mode) -> dict[str, jax.Array]:
        """Returns named feature maps, `[N, C, H, W]` each, of a forward pass in `mode`."""
        name = type(self).__name__
        raise InputError(
            f"a {name} has no named feature maps: use a DenseNet, a ResNet or an RDNet"
        )

    def mode(self, train: bool, mask: jax.Array | None) -> Mode:
        """Returns the mode of one forward pass, in training with a new key for dropout."""
        key = self.rngs.dropout() if train and self.rngs else None
        return Mode(train, mask, key, self.config.bn_group_size)

    def inputs(self, images: jax.Array, least: int) -> jax.Array:
        """Returns images `[N, H, W, C]` as feature maps `[N, C, H, W]` in `dtype`.

        Raises InputError unless C is `in_channels` and H and W are at least `least`.
        """
        shape, channels = images.shape, self.config.in_channels
        if len(shape) != 4 or shape[-1] != channels or min(shape[1:3]) < least:
            raise InputError(
                f"images have shape {tuple(shape)}: expected [batch, height, width, {channels}] "
                f"with height and width of at least {least}"
            )
        return images.astype(self.config.dtype).transpose(0, 3, 1, 2)


def backbone(model: Network) -> Network:
    """Returns `model` without its classifier, as built with `num_classes=0`; shares its weights.

    Raises InputError if the network does not end in a linear classifier.
    """
    if not model.config.has_classifier:
        raise InputError(
            f"a {type(model).__name__} has no linear classifier, and so no features that one "
            "reads: use a DenseNet, a ResNet or an RDNet"
        )
    features = nnx.merge(*nnx.split(model))
    features.config = dataclasses.replace(model.config, num_classes=0)
    features.classifier = Identity()  # type: ignore[attr-defined]
    return features
