"""DenseNet: plain, -B, -C and -BC, for small images and for ImageNet.

Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, and "Convolutional Networks
with Dense Connectivity", TPAMI 2019. Section numbers below are those of the CVPR paper.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from densenet_jax.errors import InputError
from densenet_jax.models.layers import (
    Affine,
    BatchNorm,
    Conv,
    FeatureMap,
    Linear,
    Mode,
    SqueezeExcitation,
    Statistics,
    average_pool,
    channels_first,
    channels_last,
    check_images,
    concatenate_statistics,
    max_pool,
    normalize_relu,
)
from densenet_jax.models.settings import NetworkConfig, Stem

# After how many layers the gradients of feature maps are added up: more take memory, fewer time.
LAYERS_PER_SUM = 4

Remat = Literal["none", "concat", "layer"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseNetConfig(NetworkConfig):
    """What a DenseNet is. The defaults are DenseNet-BC, L = 100, k = 12 of Table 2.

    Attributes:
      growth_rate: k, the number of feature maps each layer adds.
      depth: L, for three equal blocks (section 3, implementation details); or give block_config.
      block_config: layers in each block; None derives it from depth.
      bottleneck: width of the 1x1 convolution before each 3x3 one, in growth rates; 0 for none.
      compression: theta, the share of feature maps a transition keeps.
      stem_features: filters of the first convolution; None is 2k.
      stem: "cifar" (3x3) or "imagenet" (7x7 of stride 2, then 3x3 max-pooling of stride 2).
      dropout_rate: after every convolution but the first (section 4.2).
      se_ratio: how many of a layer's new maps share a hidden unit of its squeeze-and-excitation,
        16 in SE-DenseNet; 0 for none.
      remat: what the backward pass computes again: "none", "concat" (concatenation, normalisation
        and ReLU: memory linear in depth, TPAMI section 3.4) or "layer" (the bottleneck as well).
      bn_group_size: how many images of a batch share the statistics that normalise them; 0: all.
    """

    growth_rate: int = 12
    depth: int | None = 100
    block_config: tuple[int, ...] | None = None
    bottleneck: int = 4
    compression: float = 0.5
    stem_features: int | None = None
    stem: Stem = "cifar"
    dropout_rate: float = 0.0
    se_ratio: int = 0
    remat: Remat = "concat"
    bn_group_size: int = 0

    def __post_init__(self):
        super().__post_init__()
        self.check_least(growth_rate=1, bottleneck=0, stem_features=1, se_ratio=0, bn_group_size=0)
        if not 0 < self.compression <= 1:
            raise InputError(
                f"compression is {self.compression:g}: it must be above 0 and at most 1 "
                "(the share of feature maps that a transition keeps; the papers use 0.5)."
            )
        if (self.depth is None) == (self.block_config is None):
            raise InputError("give either depth or block_config, not both or neither.")
        if not self.blocks or not all(isinstance(n, int) and n > 0 for n in self.blocks):
            raise InputError(
                f"block_config is {self.blocks}: every block needs at least one layer."
            )

    @property
    def blocks(self) -> tuple[int, ...]:
        """Layers in each dense block. Raises InputError for an impossible depth."""
        if self.block_config is not None:
            return tuple(self.block_config)
        step = 6 if self.bottleneck else 3
        if self.depth <= 4 or (self.depth - 4) % step:
            below = max(self.depth - (self.depth - 4) % step, 4 + step)
            kind = "with" if self.bottleneck else "without"
            raise InputError(
                f"depth is {self.depth}: a DenseNet {kind} bottlenecks has depth {step} n + 4, "
                f"for example {below} or {below + step}."
            )
        return 3 * ((self.depth - 4) // step,)

    @property
    def halvings(self) -> int:
        """How often height and width are halved."""
        return len(self.blocks) - 1 + (2 if self.stem == "imagenet" else 0)


class DenseLayer(nnx.Module):
    """BN-ReLU-Conv3x3, or BN-ReLU-Conv1x1-BN-ReLU-Conv3x3 with a bottleneck (section 3).

    Reads all earlier feature maps of its block and returns `growth_rate` new ones.
    """

    def __init__(self, in_features: int, config: DenseNetConfig, *, rngs: nnx.Rngs):
        k, width = config.growth_rate, config.bottleneck * config.growth_rate
        dtype = dict(param_dtype=config.param_dtype)
        self.config = config
        self.norm1 = BatchNorm(in_features, **dtype)
        if config.bottleneck:
            self.conv1 = Conv(in_features, width, 1, **dtype, rngs=rngs)
            self.norm2 = BatchNorm(width, **dtype)
            self.conv2 = Conv(width, k, 3, **dtype, rngs=rngs)
        else:
            self.conv1 = Conv(in_features, k, 3, **dtype, rngs=rngs)
        if config.se_ratio:
            hidden = max(k // config.se_ratio, 1)
            self.excitation = SqueezeExcitation(k, hidden, **dtype, rngs=rngs)

    def __call__(self, maps: list[FeatureMap], mode: Mode) -> FeatureMap:
        statistics = concatenate_statistics(maps)
        compute = remat_if(
            self.config.remat == "layer", lambda *inputs: self.compute(*inputs, mode)
        )
        new, inner = compute([m.values for m in maps], self.norm1.affine(statistics))
        # Running statistics move here, outside what may be computed twice.
        self.norm1.track(statistics)
        if self.config.bottleneck:
            self.norm2.track(inner)
        return new

    def compute(
        self, values: list[jax.Array], affine: Affine, mode: Mode
    ) -> tuple[FeatureMap, Statistics | None]:
        """The new feature map, and the batch statistics inside the bottleneck."""
        rate = self.config.dropout_rate
        normalize_conv = remat_if(self.config.remat == "concat", concat_normalize_conv)
        x, inner = mode.fold(0).dropout(normalize_conv(values, affine, self.conv1), rate), None
        if self.config.bottleneck:
            x, inner = mode.observe(x)
            x = normalize_conv([x], self.norm2.affine(inner), self.conv2)
            x = mode.fold(1).dropout(x, rate)
        if self.config.se_ratio:
            x = self.excitation(x)
        return mode.observe(x), inner


class Transition(nnx.Module):
    """BN-ReLU-Conv1x1 to `out_features`, then 2x2 average pooling (section 3, pooling layers)."""

    def __init__(self, in_features: int, out_features: int, config: DenseNetConfig, *, rngs):
        self.config = config
        self.norm = BatchNorm(in_features, param_dtype=config.param_dtype)
        self.conv = Conv(in_features, out_features, 1, param_dtype=config.param_dtype, rngs=rngs)

    def __call__(self, maps: list[FeatureMap], mode: Mode) -> FeatureMap:
        statistics = concatenate_statistics(maps)
        rate = self.config.dropout_rate
        # Pooling and a 1x1 convolution commute, unless dropout comes between them; pooling first
        # takes a quarter of the arithmetic.
        normalize_conv = remat_if(
            self.config.remat != "none",
            functools.partial(concat_normalize_conv, pool=not rate),
        )
        x = normalize_conv([m.values for m in maps], self.norm.affine(statistics), self.conv)
        self.norm.track(statistics)
        return mode.observe(average_pool(mode.dropout(x, rate)) if rate else x)


class DenseNet(nnx.Module):
    """A DenseNet image classifier: images `[N, H, W, in_channels]` to logits `[N, num_classes]`."""

    def __init__(self, config: DenseNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        dtype = dict(param_dtype=config.param_dtype)
        features = config.stem_features or 2 * config.growth_rate
        large = config.stem == "imagenet"
        self.conv0 = Conv(
            config.in_channels,
            features,
            7 if large else 3,
            stride=2 if large else 1,
            **dtype,
            rngs=rngs,
        )
        if large:
            self.norm0 = BatchNorm(features, **dtype)
        self.blocks = nnx.List()
        self.transitions = nnx.List()
        for layers in config.blocks:
            if self.blocks:
                kept = int(config.compression * features)
                if kept < 1:
                    raise InputError(
                        f"compression {config.compression:g} leaves none of {features} "
                        "feature maps: raise it."
                    )
                self.transitions.append(Transition(features, kept, config, rngs=rngs))
                features = kept
            self.blocks.append(nnx.List())
            for _ in range(layers):
                self.blocks[-1].append(DenseLayer(features, config, rngs=rngs))
                features += config.growth_rate
        self.norm5 = BatchNorm(features, **dtype)
        self.classifier = Linear(features, config.num_classes, **dtype, rngs=rngs)
        if config.dropout_rate:
            self.rngs = nnx.Rngs(dropout=rngs.dropout())

    def __call__(self, images: jax.Array, train: bool = False, mask: jax.Array | None = None):
        """Logits `[N, num_classes]`, in `param_dtype`.

        Args:
          images: `[N, H, W, in_channels]`, normalised.
          train: use the batch's statistics, update the running ones, and drop out.
          mask: in training, `[N]`: 1 for images that count in the statistics, 0 for padding.
        """
        *_, maps = self._maps(images, Mode.of(self, train, mask)).values()
        statistics = concatenate_statistics(maps)
        pool = remat_if(self.config.remat != "none", concat_normalize_pool)
        x = pool([m.values for m in maps], self.norm5.affine(statistics))
        self.norm5.track(statistics)
        return self.classifier(x)

    def features(
        self, images: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Feature maps by name, `[N, H, W, C]` each, for use as a backbone.

        `stem`; `block1`, `transition1`, `block2` and so on: what these give; `norm5`: the last
        block's, normalised and rectified, whose averages the classifier reads. Those that are not
        used cost nothing under `jit`. Arguments: see `__call__`.
        """
        maps = self._maps(images, Mode.of(self, train, mask))
        found = {n: jnp.concatenate([m.values for m in ms], axis=1) for n, ms in maps.items()}
        *_, (last, of_last) = maps.items()
        statistics = concatenate_statistics(of_last)
        found["norm5"] = normalize_relu(found[last], self.norm5.affine(statistics))
        self.norm5.track(statistics)
        return {name: channels_last(x) for name, x in found.items()}

    def _maps(self, images: jax.Array, mode: Mode) -> dict[str, list[FeatureMap]]:
        """The maps that each stage gives, in order."""
        check_images(images, self.config.in_channels, 2**self.config.halvings)
        maps = [self._stem(channels_first(images, self.config.dtype), mode)]
        found = {"stem": maps}
        for b, block in enumerate(self.blocks):
            if b:
                maps = [self.transitions[b - 1](maps, mode.fold(b).fold(0))]
                found[f"transition{b}"] = maps
            for i, layer in enumerate(block, start=1):
                if i % LAYERS_PER_SUM == 0:
                    maps = add_gradients_here(maps)
                maps = [*maps, layer(maps, mode.fold(b).fold(i))]
            found[f"block{b + 1}"] = maps
        return found

    def _stem(self, images: jax.Array, mode: Mode) -> FeatureMap:
        x = mode.observe(self.conv0(images))
        if self.config.stem == "imagenet":
            self.norm0.track(x.statistics)
            x = normalize_relu(x.values, self.norm0.affine(x.statistics))
            x = max_pool(x)
            x = mode.observe(x)
        return x


@jax.custom_vjp
def add_gradients_here(maps: list[FeatureMap]) -> list[FeatureMap]:
    """`maps` as they are; in the backward pass, their gradients so far are added up here.

    Left to itself XLA may keep the gradient of every reader until all can be added at once, and
    their memory grows with the square of the depth.
    """
    return maps


add_gradients_here.defvjp(lambda maps: (maps, None), lambda _, g: (lax.optimization_barrier(g),))


def concat_normalize_conv(
    values: list[jax.Array], affine: Affine, conv: Conv, pool: bool = False
) -> jax.Array:
    """conv(ReLU(norm(concatenation of `values`))), if `pool` averaged over 2x2 before conv.

    Its intermediate values, if all layers kept them, would grow with the square of the depth.
    """
    x = normalize_relu(jnp.concatenate(values, axis=1), affine)
    return conv(average_pool(x) if pool else x)


def concat_normalize_pool(values: list[jax.Array], affine: Affine) -> jax.Array:
    """Global average, `[N, channels]`, of ReLU(norm(concatenation of `values`))."""
    x = normalize_relu(jnp.concatenate(values, axis=1), affine)
    return x.mean((2, 3), dtype=affine[0].dtype)


def remat_if(condition: bool, function: Callable) -> Callable:
    """`function`, keeping only its inputs for the backward pass if `condition` holds."""
    return jax.checkpoint(function) if condition else function
