"""Post-activation DenseNets: normalised and rectified after each convolution (TPAMI Figure 12).

Feature maps are passed on normalised and rectified, once for all their readers. Modules have the
same names as in densenet.py: a layer's `norm1` follows its last convolution.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from densenet_jax.models.densenet import (
    DenseLayer,
    DenseNet,
    DenseNetConfig,
    Pooling,
    Reading,
    Transition,
    concat_normalize_conv,
)
from densenet_jax.models.layers import BatchNorm, FeatureMap, Mode, normalize_relu
from densenet_jax.models.pooling import average_pool, max_pool
from densenet_jax.models.remat import remat_if


class PostActivationLayer(DenseLayer):
    """Conv3x3-BN-ReLU, or Conv1x1-BN-ReLU-Conv3x3-BN-ReLU with a bottleneck."""

    def __init__(self, in_features: int, k: int, config: DenseNetConfig, *, rngs: nnx.Rngs):
        super().__init__(in_features, k, config, rngs=rngs)
        self.norm1 = BatchNorm(k, param_dtype=config.param_dtype)

    def __call__(self, maps: list[FeatureMap], mode: Mode) -> FeatureMap:
        new = super().__call__(maps, mode)
        self.norm1.update_running(new.statistics)
        return FeatureMap(normalize_relu(new.values, self.norm1.scale_shift(new.statistics)), None)

    def read(self, maps: list[FeatureMap]) -> Reading:
        return read_active(maps, self.config)


class PostActivationTransition(Transition):
    """Conv1x1-BN-ReLU, then 2x2 average pooling."""

    def __init__(self, features: int, kept: int, config: DenseNetConfig, *, rngs: nnx.Rngs):
        super().__init__(features, kept, config, rngs=rngs)
        self.norm = BatchNorm(kept, param_dtype=config.param_dtype)

    def __call__(self, maps: list[FeatureMap], mode: Mode) -> FeatureMap:
        conv = remat_if(self.config.remat != "none", concat_normalize_conv)
        x = mode.dropout(conv(read_active(maps, self.config), self.conv), self.config.dropout_rate)
        return FeatureMap(average_pool(self.norm(x, mode)), None)


class PostActivationPooling(Pooling):
    """2x2 average pooling alone, without statistics, which no reader needs."""

    def __call__(self, maps: list[FeatureMap], mode: Mode) -> FeatureMap:
        return super().__call__(maps, Mode())


class PostActivationDenseNet(DenseNet):
    """A DenseNet with post-activation."""

    layer_type = PostActivationLayer
    transition_type = PostActivationTransition
    pooling_type = PostActivationPooling

    def __init__(self, config: DenseNetConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.norm0 = BatchNorm(self.conv0.kernel.shape[-1], param_dtype=config.param_dtype)
        del self.norm5

    def stem(self, images: jax.Array, mode: Mode) -> FeatureMap:
        x = self.norm0(self.conv0(images), mode)
        return FeatureMap(max_pool(x) if self.config.stem == "imagenet" else x, None)

    def read_last(self, maps: list[FeatureMap]) -> Reading:
        return read_active(maps, self.config)

    def layer_mode(self, mode: Mode, block: int, layer: int) -> Mode:
        return mode.fold(block).fold(layer)


def read_active(maps: list[FeatureMap], config: DenseNetConfig) -> Reading:
    """Returns `maps` with scales of 1 and shifts of 0: BN-ReLU leaves activated maps unchanged."""
    values = [m.values for m in maps]
    channels = sum(x.shape[1] for x in values)
    ones, zeros = (f(channels, config.param_dtype) for f in (jnp.ones, jnp.zeros))
    return Reading(values, (ones, zeros))
