"""timm's `densenetblur121d`: a DenseNet whose stem is deep and pools after a blur.

Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019: pooling first blurs the
maps by [1, 2, 1] / 4 in each direction, so that every second position represents its neighbours.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from densenet_jax.errors import InputError
from densenet_jax.models.densenet import DenseNet, DenseNetConfig
from densenet_jax.models.layers import BatchNorm, Conv, FeatureMap, Mode


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlurDenseNetConfig(DenseNetConfig):
    """The description of a DenseNet with a blurred stem, with the fields of a DenseNet."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stem != "imagenet" or self.post_activation:
            raise InputError(
                "a blurred stem is for pre-activation DenseNets for ImageNet: leave stem and "
                "post_activation unset"
            )


class BlurDenseNet(DenseNet):
    """A DenseNet with a stem of three 3x3 convolutions, max-pooling of stride 1, and a blur."""

    def __init__(self, config: BlurDenseNetConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        dtype, k = config.param_dtype, config.growth_rate
        features = self.conv0.kernel.shape[-1]
        conv = functools.partial(Conv, param_dtype=dtype, rngs=rngs)
        self.conv0 = conv(config.in_channels, k, 3, stride=2)
        self.norm0 = BatchNorm(k, param_dtype=dtype)
        self.conv1 = conv(k, k, 3)
        self.norm1 = BatchNorm(k, param_dtype=dtype)
        self.conv2 = conv(k, features, 3)
        self.norm2 = BatchNorm(features, param_dtype=dtype)

    def stem(self, images: jax.Array, mode: Mode) -> FeatureMap:
        x = self.norm0(self.conv0(images), mode)
        x = self.norm1(self.conv1(x), mode)
        x = self.norm2(self.conv2(x), mode)
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 3, 3), (1, 1, 1, 1), "SAME")
        return mode.with_statistics(blur_pool(x), mode.expected_mean)


def blur_pool(x: jax.Array) -> jax.Array:
    """Returns every second position of maps `[N, C, H, W]`, blurred; edges are reflected."""
    for axis in (2, 3):
        padding = [(1, 1) if i == axis else (0, 0) for i in range(4)]
        padded, size = jnp.pad(x, padding, "reflect"), x.shape[axis]
        left, middle, right = (
            lax.slice_in_dim(padded, start, start + size, 2, axis) for start in range(3)
        )
        x = (left + 2 * middle + right) / 4
    return x
