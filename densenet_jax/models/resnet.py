"""Residual networks: ResNet, stochastic depth, pre-activation ResNet, Wide ResNet.

He et al., CVPR 2016 (arXiv 1512.03385) and ECCV 2016 (1603.05027); Huang et al., "Deep Networks
with Stochastic Depth", ECCV 2016 (1603.09382); Zagoruyko and Komodakis, "Wide Residual Networks",
BMVC 2016 (1605.07146).
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from densenet_jax.errors import InputError
from densenet_jax.models.initializers import he_normal, he_normal_fan_in
from densenet_jax.models.layers import (
    BatchNorm,
    Conv,
    Linear,
    Mode,
    channels_first,
    channels_last,
    check_images,
    global_average,
    relu,
)
from densenet_jax.models.pooling import average_pool, max_pool
from densenet_jax.models.settings import NetworkConfig, Stem
from densenet_jax.models.stack import Stack


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig(NetworkConfig):
    """What a residual network is. The defaults are ResNet-110.

    Attributes:
      block_config: residual blocks in each stage.
      widths: feature maps that the blocks of each stage give.
      bottleneck_blocks: of 1x1, 3x3 and 1x1 convolutions, the inner ones a quarter as wide, instead
        of two 3x3.
      pre_activation: normalise and rectify before each convolution instead of after.
      shortcut: where the number of feature maps changes, "projection" is a 1x1 convolution;
        "subsample" (option A of He et al.) takes every second position, and "pool" the means of
        2x2, and both add maps of zeros.
      stem: "cifar" (3x3) or "imagenet" (7x7 of stride 2, then 3x3 max-pooling of stride 2).
      stem_features: filters of the first convolution.
      dropout_rate: between the convolutions of a block.
      survival: probability that the last block is kept in a training step; those before it are
        kept more often, linearly up to 1 at the input. 1: always.
      kernel_init: He's normal distribution with "fan_in" or "fan_out".
      remat: what the backward pass computes again: "none", or all inside a "block".
      bn_group_size: how many images of a batch share the statistics that normalise them; 0: all.
    """

    block_config: tuple[int, ...] = (18, 18, 18)
    widths: tuple[int, ...] = (16, 32, 64)
    bottleneck_blocks: bool = False
    pre_activation: bool = False
    shortcut: Literal["projection", "subsample", "pool"] = "subsample"
    stem: Stem = "cifar"
    stem_features: int = 16
    dropout_rate: float = 0.0
    survival: float = 1.0
    kernel_init: Literal["fan_in", "fan_out"] = "fan_out"
    remat: Literal["none", "block"] = "none"
    bn_group_size: int = 0

    def __post_init__(self):
        super().__post_init__()
        least_width = 4 if self.bottleneck_blocks else 1
        self.check_least(block_config=1, widths=least_width, stem_features=1, bn_group_size=0)
        if len(self.block_config) != len(self.widths) or not self.widths:
            raise InputError(
                f"block_config {self.block_config} and widths {self.widths} must have a number "
                "for each stage."
            )
        if not 0 < self.survival <= 1:
            raise InputError(f"survival is {self.survival:g}: it must be above 0 and at most 1.")
        ends = (self.stem_features, *self.widths)
        if self.shortcut != "projection" and any(a > b for a, b in zip(ends, self.widths)):  # noqa: B905
            raise InputError(
                f"widths {ends} shrink, which needs shortcut='projection': others add zeros."
            )


class Branch(nnx.Module):
    """The convolutions of a residual block; BatchNorm and ReLU follow each but the last.

    Of a post-activation block the last is followed by BatchNorm.
    """

    def __init__(self, in_features: int, out_features: int, stride: int, config, *, conv):
        if config.bottleneck_blocks:
            inner = out_features // 4
            features, sizes = (in_features, inner, inner, out_features), (1, 3, 1)
            strides = (stride, 1, 1) if config.pre_activation else (1, stride, 1)
        else:
            features, sizes = (in_features, out_features, out_features), (3, 3)
            strides = (stride, 1)
        self.config = config
        self.convs = nnx.List(
            conv(features[i], features[i + 1], sizes[i], stride=strides[i])
            for i in range(len(sizes))
        )
        normalized = features[1:-1] if config.pre_activation else features[1:]
        self.norms = nnx.List(BatchNorm(n, param_dtype=config.param_dtype) for n in normalized)

    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        last = len(self.convs) - 1
        for i, conv in enumerate(self.convs):
            x = conv(x)
            if i < len(self.norms):
                x = self.norms[i](x, mode, relu=i < last)
            if i < last:
                x = mode.fold(i).dropout(x, self.config.dropout_rate)
        return x


class Shortcut(nnx.Module):
    """What a block adds to its branch where feature maps change in number or size."""

    def __init__(self, in_features: int, out_features: int, stride: int, config, *, conv):
        self.kind, self.stride = config.shortcut, stride
        self.added_features = out_features - in_features
        projects = self.kind == "projection"
        self.conv = conv(in_features, out_features, 1, stride=stride) if projects else None
        is_normalized = projects and not config.pre_activation
        norm = functools.partial(BatchNorm, out_features, param_dtype=config.param_dtype)
        self.norm = norm() if is_normalized else None

    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        if self.conv is not None:
            x = self.conv(x)
            return x if self.norm is None else self.norm(x, mode, relu=False)
        if self.stride > 1:
            x = average_pool(x) if self.kind == "pool" else x[:, :, :: self.stride, :: self.stride]
        return jnp.pad(x, ((0, 0), (0, self.added_features), (0, 0), (0, 0)))


class Block(nnx.Module):
    """A residual block: ReLU(shortcut(x) + branch(x)).

    With pre-activation, shortcut(x) + branch(ReLU(norm(x))); a projection then reads the normalised
    maps too, and shares them with the branch.
    """

    def __init__(self, in_features: int, out_features: int, stride: int, config, *, rngs: nnx.Rngs):
        init = he_normal_fan_in if config.kernel_init == "fan_in" else he_normal
        conv = functools.partial(Conv, kernel_init=init, param_dtype=config.param_dtype, rngs=rngs)
        sizes = (in_features, out_features, stride, config)
        self.config = config
        self.branch = Branch(*sizes, conv=conv)
        changes = in_features != out_features or stride > 1
        self.shortcut = Shortcut(*sizes, conv=conv) if changes else None
        norm = functools.partial(BatchNorm, in_features, param_dtype=config.param_dtype)
        self.norm = norm() if config.pre_activation else None

    def __call__(self, x: jax.Array, mode: Mode, survival: jax.Array) -> jax.Array:
        """The block's output; `survival` is the probability that its branch is kept in training."""
        shortcut = x
        if self.norm is not None:
            x = self.norm(x, mode)
        if self.shortcut is not None:
            projects = self.config.shortcut == "projection"
            shortcut = self.shortcut(x if projects else shortcut, mode)
        if self.config.survival == 1:
            y = self.branch(x, mode.fold(0))
        elif mode.train:
            y = self._branch_or_nothing(x, shortcut, mode, survival)
        else:
            y = self.branch(x, mode) * survival.astype(x.dtype)
        y += shortcut
        return y if self.config.pre_activation else relu(y)

    def _branch_or_nothing(self, x, shortcut, mode: Mode, survival) -> jax.Array:
        """One draw for the whole batch. What is skipped is not computed, nor are its statistics."""
        graphdef, params, batch_stats = nnx.split(self.branch, nnx.Param, nnx.BatchStat)

        def compute(params, batch_stats):
            branch = nnx.merge(graphdef, params, batch_stats)
            return branch(x, mode.fold(0)), nnx.state(branch, nnx.BatchStat)

        def skip(params, batch_stats):
            return jnp.zeros_like(shortcut), batch_stats

        keep = jax.random.bernoulli(mode.fold(1).key, survival)
        y, batch_stats = lax.cond(keep, compute, skip, params, batch_stats)
        nnx.update(self.branch, batch_stats)
        return y


class Stage(nnx.Module):
    """Blocks of equal width; the first may change the size and number of feature maps."""

    def __init__(self, in_features, out_features, stride, count, config, *, rngs: nnx.Rngs):
        self.config = config
        self.first = Block(in_features, out_features, stride, config, rngs=rngs)
        block = functools.partial(Block, out_features, out_features, 1, config, rngs=rngs)
        self.rest = Stack(block, count - 1) if count > 1 else None

    def __call__(self, x: jax.Array, mode: Mode, survival: jax.Array) -> jax.Array:
        x = self.first(x, mode.fold(0), survival[0])
        if self.rest is not None:
            remat = self.config.remat == "block"
            x = self.rest(x, mode.fold(1), survival[1:], remat=remat)
        return x


class ResNet(nnx.Module):
    """A residual network: images `[N, H, W, in_channels]` to logits `[N, num_classes]`."""

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        large = config.stem == "imagenet"
        dtype = dict(param_dtype=config.param_dtype)
        features = config.stem_features
        self.conv1 = Conv(
            config.in_channels,
            features,
            7 if large else 3,
            stride=2 if large else 1,
            kernel_init=he_normal_fan_in if config.kernel_init == "fan_in" else he_normal,
            **dtype,
            rngs=rngs,
        )
        is_normalized = large or not config.pre_activation
        self.norm1 = BatchNorm(features, **dtype) if is_normalized else None
        self.stages = nnx.List()
        for i, (count, width) in enumerate(zip(config.block_config, config.widths, strict=True)):
            stride = 2 if i else 1
            self.stages.append(Stage(features, width, stride, count, config, rngs=rngs))
            features = width
        self.norm = BatchNorm(features, **dtype) if config.pre_activation else None
        self.classifier = Linear(features, config.num_classes, **dtype, rngs=rngs)
        if config.dropout_rate or config.survival < 1:
            self.rngs = nnx.Rngs(dropout=rngs.dropout())

    def __call__(self, images: jax.Array, train: bool = False, mask: jax.Array | None = None):
        """Logits `[N, num_classes]`, in `param_dtype`; see `DenseNet.__call__`."""
        *_, x = self._maps(images, Mode.of(self, train, mask)).values()
        return self.classifier(global_average(x, self.config.param_dtype))

    def features(
        self, images: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Feature maps by name, `[N, H, W, C]`: `stem`, `stage1` and so on; see `DenseNet`.

        With pre-activation also `norm`: the last stage's, normalised and rectified.
        """
        maps = self._maps(images, Mode.of(self, train, mask))
        return {name: channels_last(x) for name, x in maps.items()}

    def _maps(self, images: jax.Array, mode: Mode) -> dict[str, jax.Array]:
        """What each stage gives, in order; the classifier reads the last."""
        config = self.config
        halvings = len(config.widths) - 1 + (2 if config.stem == "imagenet" else 0)
        check_images(images, config.in_channels, 2**halvings)
        x = self.conv1(channels_first(images, config.dtype))
        if self.norm1 is not None:
            x = self.norm1(x, mode)
        if config.stem == "imagenet":
            x = max_pool(x)
        found = {"stem": x}
        survival, done = self.survival(), 0
        for i, (stage, count) in enumerate(zip(self.stages, config.block_config, strict=True)):
            x = stage(x, mode.fold(i), survival[done : done + count])
            found[f"stage{i + 1}"] = x
            done += count
        if self.norm is not None:
            found["norm"] = self.norm(x, mode)
        return found

    def survival(self) -> jax.Array:
        """The probability that each block is kept in training: linear decay (1603.09382)."""
        blocks = sum(self.config.block_config)
        return jnp.asarray(1 - np.arange(1, blocks + 1) / blocks * (1 - self.config.survival))
