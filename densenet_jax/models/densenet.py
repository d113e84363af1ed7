"""DenseNet: plain, -B, -C and -BC, for small images and for ImageNet.

Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, and "Convolutional Networks
with Dense Connectivity", TPAMI 2019. Section numbers below are those of the CVPR paper.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from densenet_jax.errors import InputError, counted
from densenet_jax.models.layers import (
    Affine,
    BatchNorm,
    Conv,
    FeatureMap,
    Linear,
    Mode,
    SqueezeExcitation,
    Statistics,
    channels_first,
    channels_last,
    check_images,
    concatenate_statistics,
    normalize_relu,
)
from densenet_jax.models.pooling import average_pool, max_pool
from densenet_jax.models.remat import LAYERS_PER_SUM, copy_for_readers, join, remat_if
from densenet_jax.models.settings import NetworkConfig, Stem

Remat = Literal["none", "concat", "layer"]
Connectivity = Literal["block", "full", "span", "odd_even", "logarithmic"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseNetConfig(NetworkConfig):
    """What a DenseNet is. The defaults are DenseNet-BC, L = 100, k = 12 of Table 2.

    Attributes:
      growth_rate: k, the number of feature maps each layer adds.
      depth: L, for three equal blocks (section 3, implementation details); or give block_config.
      block_config: layers in each block; None derives it from depth.
      bottleneck: width of the 1x1 convolution before each 3x3 one, in growth rates; 0 for none.
      compression: theta, the share of feature maps a transition keeps.
      connectivity: which earlier layers of its block a layer reads, see `sources`; "full" has all
        layers of the network read, as transitions do nothing but pool (TPAMI Figures 9 and 10).
      span: how many layers back the connectivity "span" reaches.
      growth_factor: by what the growth rate is multiplied from block to block (TPAMI Figure 11).
      post_activation: normalise and rectify after each convolution, once for all readers, and not
        before each for itself (TPAMI Figure 12).
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
    connectivity: Connectivity = "block"
    span: int = 12
    growth_factor: int = 1
    post_activation: bool = False
    stem_features: int | None = None
    stem: Stem = "cifar"
    dropout_rate: float = 0.0
    se_ratio: int = 0
    remat: Remat = "concat"
    bn_group_size: int = 0

    def __post_init__(self):
        super().__post_init__()
        self.check_least(growth_rate=1, bottleneck=0, span=1, growth_factor=1, stem_features=1,
                         se_ratio=0, bn_group_size=0)  # fmt: skip
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


def sources(config: DenseNetConfig, layer: int) -> list[int]:
    """What layer number `layer` of a block reads: 0 is the block's input, i what layer i gives."""
    earlier = range(layer)
    if config.connectivity == "span":
        return [s for s in earlier if layer - s <= config.span]
    if config.connectivity == "odd_even":
        return [s for s in earlier if (layer - s) % 2]
    if config.connectivity == "logarithmic":
        return [s for s in earlier if (layer - s).bit_count() == 1]  # 1, 2, 4, 8, ... back.
    return list(earlier)


class DenseLayer(nnx.Module):
    """BN-ReLU-Conv3x3, or BN-ReLU-Conv1x1-BN-ReLU-Conv3x3 with a bottleneck (section 3).

    Reads earlier feature maps of its block, of `in_features` channels, and returns k new ones. In
    post-activation its first BN-ReLU comes last: its readers apply it, with nothing of their own.
    """

    def __init__(self, in_features: int, k: int, config: DenseNetConfig, *, rngs: nnx.Rngs):
        width = config.bottleneck * k
        dtype = dict(param_dtype=config.param_dtype)
        self.config = config
        self.norm1 = BatchNorm(k if config.post_activation else in_features, **dtype)
        if config.bottleneck:
            self.conv1 = Conv(in_features, width, 1, **dtype, rngs=rngs)
            self.norm2 = BatchNorm(width, **dtype)
            self.conv2 = Conv(width, k, 3, **dtype, rngs=rngs)
        else:
            self.conv1 = Conv(in_features, k, 3, **dtype, rngs=rngs)
        if config.se_ratio:
            hidden = max(k // config.se_ratio, 1)
            self.excitation = SqueezeExcitation(k, hidden, **dtype, rngs=rngs)

    def __call__(
        self, maps: list[FeatureMap], mode: Mode, expected_mean: jax.Array | None
    ) -> FeatureMap:
        compute = remat_if(
            self.config.remat == "layer",
            lambda *inputs: self.compute(*inputs, mode, expected_mean),
        )
        post = self.config.post_activation
        new, inner = compute(
            [m.values for m in maps], affine_of(maps, None if post else self.norm1)
        )
        # Running statistics move here, outside what may be computed twice.
        if self.config.bottleneck:
            self.norm2.track(inner)
        return activated_by(self.norm1, new) if post else new

    def compute(
        self,
        values: list[jax.Array],
        affine: Affine,
        mode: Mode,
        expected_mean: jax.Array | None,
    ) -> tuple[FeatureMap, Statistics | None]:
        """The new feature map, and the batch statistics inside the bottleneck."""
        rate = self.config.dropout_rate
        normalize_conv = remat_if(self.config.remat == "concat", concat_normalize_conv)
        x, inner = mode.fold(0).dropout(normalize_conv(values, affine, self.conv1), rate), None
        if self.config.bottleneck:
            x, inner, _ = mode.observe(x, self.norm2.mean[...])
            x = normalize_conv([x], self.norm2.affine(inner), self.conv2)
            x = mode.fold(1).dropout(x, rate)
        if self.config.se_ratio:
            x = self.excitation(x)
        return mode.observe(x, expected_mean), inner


class Transition(nnx.Module):
    """BN-ReLU-Conv1x1 to `out_features`, then 2x2 average pooling (section 3, pooling layers).

    In post-activation the BN-ReLU follows the convolution.
    """

    def __init__(self, in_features: int, out_features: int, config: DenseNetConfig, *, rngs):
        dtype = dict(param_dtype=config.param_dtype)
        self.config = config
        self.norm = BatchNorm(out_features if config.post_activation else in_features, **dtype)
        self.conv = Conv(in_features, out_features, 1, **dtype, rngs=rngs)

    def __call__(
        self, maps: list[FeatureMap], mode: Mode, expected_mean: jax.Array | None
    ) -> FeatureMap:
        rate, post = self.config.dropout_rate, self.config.post_activation
        # Pooling and a 1x1 convolution commute, unless something comes between them; pooling first
        # takes a quarter of the arithmetic.
        early = not (rate or post)
        normalize_conv = remat_if(
            self.config.remat != "none",
            functools.partial(concat_normalize_conv, pool=early),
        )
        affine = affine_of(maps, None if post else self.norm)
        x = mode.dropout(normalize_conv([m.values for m in maps], affine, self.conv), rate)
        if post:
            return pool_active([activated_by(self.norm, mode.observe(x, self.norm.mean[...]))])
        return mode.observe(x if early else average_pool(x), expected_mean)


class Pooling(nnx.Module):
    """2x2 average pooling and nothing else: the transition of "full" connectivity."""

    def __call__(
        self, maps: list[FeatureMap], mode: Mode, expected_mean: jax.Array | None
    ) -> FeatureMap:
        if maps[0].affine is not None:
            return pool_active(maps)
        x = average_pool(jnp.concatenate([m.values for m in maps], axis=1))
        return mode.observe(x, expected_mean)


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
        if large or config.post_activation:
            self.norm0 = BatchNorm(features, **dtype)
        self.blocks = nnx.List()
        self.transitions = nnx.List()
        for b, layers in enumerate(config.blocks):
            if b and config.connectivity == "full":
                self.transitions.append(Pooling())
            elif b:
                kept = int(config.compression * features)
                if kept < 1:
                    raise InputError(
                        f"compression {config.compression:g} leaves none of "
                        f"{counted(features, 'feature map')}: raise it."
                    )
                self.transitions.append(Transition(features, kept, config, rngs=rngs))
                features = kept
            k = config.growth_rate * config.growth_factor**b
            self.blocks.append(nnx.List())
            for layer in range(1, layers + 1):
                read = sum(k if s else features for s in sources(config, layer))
                self.blocks[-1].append(DenseLayer(read, k, config, rngs=rngs))
            features += layers * k
        self.norm5 = None if config.post_activation else BatchNorm(features, **dtype)
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
        pool = remat_if(self.config.remat != "none", concat_normalize_pool)
        return self.classifier(pool([m.values for m in maps], affine_of(maps, self.norm5)))

    def features(
        self, images: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Feature maps by name, `[N, H, W, C]` each, for use as a backbone.

        `stem`; `block1`, `transition1`, `block2` and so on: what these give; `norm5`: the last
        block's, normalised and rectified, whose averages the classifier reads. Those that are not
        used cost nothing under `jit`. Arguments: see `__call__`.
        """
        maps = self._maps(images, Mode.of(self, train, mask))
        found = {n: jnp.concatenate([m.active() for m in ms], axis=1) for n, ms in maps.items()}
        *_, last = maps.values()
        values = jnp.concatenate([m.values for m in last], axis=1)
        found["norm5"] = normalize_relu(values, affine_of(last, self.norm5))
        return {name: channels_last(x) for name, x in found.items()}

    def _maps(self, images: jax.Array, mode: Mode) -> dict[str, list[FeatureMap]]:
        """The maps that each stage gives, in order."""
        check_images(images, self.config.in_channels, 2**self.config.halvings)
        maps = [self._stem(channels_first(images, self.config.dtype), mode)]
        found = {"stem": maps}
        for b, block in enumerate(self.blocks):
            if b:
                mean = self._expected_mean(mode, b, 0)
                maps = [self.transitions[b - 1](maps, mode.fold(b).fold(0), mean)]
                found[f"transition{b}"] = maps
            for first in range(0, len(block), LAYERS_PER_SUM):
                group, new = block[first : first + LAYERS_PER_SUM], []
                *copies, maps = copy_for_readers(maps, len(group) + 1)
                for i, (layer, old) in enumerate(zip(group, copies, strict=True), first + 1):
                    there = [*old, *new]
                    read = [there[s] for s in sources(self.config, i)]
                    mean = self._expected_mean(mode, b, i)
                    new.append(layer(read, mode.fold(b).fold(i), mean))
                maps = [*maps, *new]
            found[f"block{b + 1}"] = maps
        return found

    def _stem(self, images: jax.Array, mode: Mode) -> FeatureMap:
        x = self.conv0(images)
        if not hasattr(self, "norm0"):
            return mode.observe(x, self._expected_mean(mode, 0, 0))
        x = activated_by(self.norm0, mode.observe(x, self.norm0.mean[...]))
        if self.config.stem == "imagenet":
            x = activated(max_pool(x.active()), x.affine)
        if self.config.post_activation:
            return x
        return mode.observe(x.values, self._expected_mean(mode, 0, 0))

    def _expected_mean(self, mode: Mode, block: int, layer: int) -> jax.Array | None:
        """Returns the running mean of a layer's maps, in training; layer 0 is the block's input.

        The first layer that reads them keeps it, or else what follows the block: they are the last
        maps it reads. Returns None if there is no such mean.
        """
        if not mode.train or self.config.post_activation:
            return None
        is_last = block + 1 == len(self.blocks)
        after = self.norm5 if is_last else getattr(self.transitions[block], "norm", None)
        norm = [*(layer.norm1 for layer in self.blocks[block]), after][layer]
        channels = self.config.growth_rate * self.config.growth_factor**block if layer else 0
        return norm and norm.mean[...][-channels:]  # Of 0: all.


def affine_of(maps: list[FeatureMap], norm: BatchNorm | None) -> Affine:
    """By what a reader normalises the concatenation of `maps`.

    By its own `norm`, whose running statistics move in training; without one, as the maps say.
    """
    if norm is None:
        scales, shifts = zip(*(m.affine for m in maps), strict=True)
        return jnp.concatenate(scales, axis=-1), jnp.concatenate(shifts, axis=-1)
    statistics = concatenate_statistics(maps)
    norm.track(statistics)
    return norm.affine(statistics)


def activated_by(norm: BatchNorm, new: FeatureMap) -> FeatureMap:
    """`new`, for all its readers to normalise by `norm`, whose running statistics move."""
    norm.track(new.statistics)
    return FeatureMap(new.values, None, norm.affine(new.statistics))


def activated(values: jax.Array, affine: Affine) -> FeatureMap:
    """Maps that `affine`'s BN-ReLU has given, perhaps pooled since: readers take them as are."""
    a, b = affine
    return FeatureMap(values, None, (jnp.ones_like(a), jnp.zeros_like(b)))


def pool_active(maps: list[FeatureMap]) -> FeatureMap:
    """Averages over 2x2 of what readers of `maps` would read, in post-activation."""
    x = jnp.concatenate([m.active() for m in maps], axis=1)
    return activated(average_pool(x), affine_of(maps, None))


def concat_normalize_conv(
    values: list[jax.Array], affine: Affine, conv: Conv, pool: bool = False
) -> jax.Array:
    """conv(ReLU(norm(concatenation of `values`))), if `pool` averaged over 2x2 before conv.

    Its intermediate values, if all layers kept them, would grow with the square of the depth.
    """
    x = normalize_relu(join(values), affine)
    return conv(average_pool(x) if pool else x)


def concat_normalize_pool(values: list[jax.Array], affine: Affine) -> jax.Array:
    """Global average, `[N, channels]`, of ReLU(norm(concatenation of `values`))."""
    x = normalize_relu(join(values), affine)
    return x.mean((2, 3), dtype=affine[0].dtype)
