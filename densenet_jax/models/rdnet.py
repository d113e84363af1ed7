"""RDNet, the modern DenseNet (Kim et al., "DenseNets Reloaded", ECCV 2024, arXiv 2403.19588)."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from densenet_jax.errors import InputError
from densenet_jax.models.initializers import constant, he_normal_fan_in
from densenet_jax.models.layers import Conv, Mode, classifier, global_average
from densenet_jax.models.network import Network, NetworkConfig

EPSILON = 1e-6  # Added to the variances that LayerNorm divides by.
LAYER_SCALE = 1e-6  # Initial weight of a layer's new feature maps.
LAYERS = 3  # Number of layers in every dense stage.
WIDENING = 4  # Width inside a layer, in widths of its input.
COMPRESSION = 0.5  # Share of feature maps that a transition keeps.
PATCH = 4  # Height and width of the stem's patches.


@dataclasses.dataclass(frozen=True, kw_only=True)
class RDNetConfig(NetworkConfig):
    """The description of an RDNet. The defaults are RDNet-T.

    Attributes:
      stem_features: feature maps of the 4x4 patches.
      stage_growth_rates: growth rate of the layers of each stage; a stage has three layers.
      downsampling: the stages, counted from 0, before which height and width are halved.
      drop_path_rate: probability that the last layer is dropped for an image in a training step;
        earlier layers are dropped less often, linearly from 0.
    """

    stem_features: int = 64
    stage_growth_rates: tuple[int, ...] = (64, 104, 128, 128, 128, 128, 224)
    downsampling: tuple[int, ...] = (1, 2, 6)
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(stem_features=8, stage_growth_rates=8)
        stages = range(1, len(self.stage_growth_rates))
        if not all(stage in stages for stage in self.downsampling):
            raise InputError(
                f"downsampling is {self.downsampling}: it names stages from 1 to {len(stages)}"
            )


class LayerNorm(nnx.Module):
    """Layer normalisation of `[N, C, H, W]` or `[N, C]` over channels, for each position."""

    def __init__(self, features: int, *, param_dtype: DTypeLike):
        self.scale = nnx.Param(constant(1, features, param_dtype))
        self.bias = nnx.Param(constant(0, features, param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(self.scale.dtype)
        mean = wide.mean(1, keepdims=True)
        var = jnp.square(wide - mean).mean(1, keepdims=True)
        shape = (-1, *(1,) * (x.ndim - 2))
        scale, bias = (p[...].reshape(shape) for p in (self.scale, self.bias))
        return ((wide - mean) * jax.lax.rsqrt(var + EPSILON) * scale + bias).astype(x.dtype)


class EffectiveSqueezeExcitation(nnx.Module):
    """Weighs feature maps by one linear layer of their averages (Lee and Park, CVPR 2020)."""

    def __init__(self, features: int, *, conv: Callable[..., Conv]):
        self.conv = conv(features, features, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * nnx.hard_sigmoid(self.conv(x.mean((2, 3), keepdims=True)))


class Layer(nnx.Module):
    """Depthwise 7x7 convolution, LayerNorm, 1x1 convolution to 4 widths, GELU, 1x1 to k maps.

    Reads all earlier feature maps of its stage, as a dense layer does.
    """

    def __init__(
        self,
        features: int,
        growth_rate: int,
        excites: bool,
        *,
        conv: Callable[..., Conv],
        param_dtype: DTypeLike,
    ):
        width = _multiple_of_8(WIDENING * features)
        self.depthwise = conv(features, features, 7, groups=features)
        self.norm = LayerNorm(features, param_dtype=param_dtype)
        self.widen = conv(features, width, 1)
        self.narrow = conv(width, growth_rate, 1)
        self.excitation = EffectiveSqueezeExcitation(growth_rate, conv=conv) if excites else None
        self.layer_scale = nnx.Param(constant(LAYER_SCALE, growth_rate, param_dtype))

    def __call__(self, maps: list[jax.Array], mode: Mode, drop_path_rate: float) -> jax.Array:
        x = self.norm(self.depthwise(jnp.concatenate(maps, axis=1)))
        x = self.narrow(nnx.gelu(self.widen(x), approximate=False))
        if self.excitation is not None:
            x = self.excitation(x)
        x = x * self.layer_scale[...].astype(x.dtype)[:, None, None]
        return mode.drop_images(x, drop_path_rate)


class Transition(nnx.Module):
    """LayerNorm, then a convolution to half the feature maps, which may halve H and W as well."""

    def __init__(
        self, features: int, halves: bool, *, conv: Callable[..., Conv], param_dtype: DTypeLike
    ):
        size = 2 if halves else 1
        self.norm = LayerNorm(features, param_dtype=param_dtype)
        self.conv = conv(features, _multiple_of_8(COMPRESSION * features), size, stride=size)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(self.norm(x))


class RDNet(Network):
    """An RDNet, see `Network`."""

    config: RDNetConfig

    def __init__(self, config: RDNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        dtype = config.param_dtype
        conv = functools.partial(
            Conv, bias=True, kernel_init=he_normal_fan_in, param_dtype=dtype, rngs=rngs
        )
        norm = functools.partial(LayerNorm, param_dtype=dtype)
        layer = functools.partial(Layer, conv=conv, param_dtype=dtype)
        features = config.stem_features
        self.stem = conv(config.in_channels, features, PATCH, stride=PATCH)
        self.stem_norm = norm(features)
        self.transitions: nnx.List[Transition] = nnx.List()
        self.stages: nnx.List[nnx.List[Layer]] = nnx.List()
        for i, growth_rate in enumerate(config.stage_growth_rates):
            if i:
                halves = i in config.downsampling
                self.transitions.append(Transition(features, halves, conv=conv, param_dtype=dtype))
                features = _multiple_of_8(COMPRESSION * features)
            self.stages.append(nnx.List())
            for _ in range(LAYERS):
                # From the third stage on, layers weigh their maps.
                self.stages[-1].append(layer(features, growth_rate, i > 1))
                features += growth_rate
        self.norm = norm(features)
        self.classifier = classifier(features, config.num_classes, param_dtype=dtype, rngs=rngs)
        if config.drop_path_rate:
            self.rngs = nnx.Rngs(dropout=rngs.dropout())

    def logits(self, images: jax.Array, mode: Mode) -> jax.Array:
        *_, x = self.feature_maps(images, mode).values()
        return self.classifier(self.norm(global_average(x, self.config.param_dtype)))

    def feature_maps(self, images: jax.Array, mode: Mode) -> dict[str, jax.Array]:
        """Returns `stem`, `stage1` and so on; the classifier reads the last one."""
        config = self.config
        x = self.inputs(images, PATCH * 2 ** len(config.downsampling))
        rates = np.linspace(0, config.drop_path_rate, LAYERS * len(self.stages)).tolist()
        x = self.stem_norm(self.stem(x))
        found = {"stem": x}
        for i, stage in enumerate(self.stages):
            maps = [self.transitions[i - 1](x) if i else x]
            for j, layer in enumerate(stage, start=i * LAYERS):
                maps.append(layer(maps, mode.fold(j), rates[j]))
            found[f"stage{i + 1}"] = x = jnp.concatenate(maps, axis=1)
        return found


def _multiple_of_8(width: float) -> int:
    """Returns the largest multiple of 8 that is not above `width`."""
    return int(width / 8) * 8
