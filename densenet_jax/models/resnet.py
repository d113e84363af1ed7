"""Residual networks: ResNet, stochastic depth, pre-activation ResNet, Wide ResNet.

He et al., CVPR 2016 (arXiv 1512.03385) and ECCV 2016 (1603.05027); Huang et al., "Deep Networks
with Stochastic Depth", ECCV 2016 (1603.09382); Zagoruyko and Komodakis, "Wide Residual Networks",
BMVC 2016 (1605.07146).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from densenet_jax.errors import InputError
from densenet_jax.models.initializers import Initializer, he_normal, he_normal_fan_in
from densenet_jax.models.layers import BatchNorm, Conv, Mode, classifier, global_average, relu
from densenet_jax.models.network import Network, NetworkConfig, Stem
from densenet_jax.models.pooling import average_pool, max_pool
from densenet_jax.models.stack import Stack


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig(NetworkConfig):
    """The description of a residual network. The defaults are ResNet-110.

    Attributes:
      block_config: residual blocks in each stage.
      widths: feature maps that the blocks of each stage produce.
      bottleneck_blocks: use 1x1, 3x3 and 1x1 convolutions, the first two a quarter as wide, instead
        of two 3x3 convolutions.
      pre_activation: normalise and rectify before each convolution instead of after.
      shortcut: where the number of feature maps changes, "projection" is a 1x1 convolution.
        "subsample" (option A of He et al.) takes every second position and "pool" the means of
        2x2 positions; both add maps of zeros.
      stem: "cifar" (3x3) or "imagenet" (7x7 of stride 2, then 3x3 max-pooling of stride 2).
      stem_features: filters of the first convolution.
      dropout_rate: dropout probability between the convolutions of a block.
      survival: probability that the last block is kept in a training step; earlier blocks are
        kept more often, linearly up to 1 at the input. 1: always.
      kernel_init: He's normal distribution with "fan_in" or "fan_out".
      remat: what the backward pass recomputes: "none", or all inside a "block".
      bn_group_size: number of images of a batch that share batch statistics; 0: all.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        least_width = 4 if self.bottleneck_blocks else 1
        self.check_least(block_config=1, widths=least_width, stem_features=1, bn_group_size=0)
        if len(self.block_config) != len(self.widths) or not self.widths:
            raise InputError(
                f"block_config {self.block_config} and widths {self.widths} must have a number "
                "for each stage"
            )
        if not 0 < self.survival <= 1:
            raise InputError(f"survival is {self.survival:g}: it must be above 0 and at most 1")
        ends = (self.stem_features, *self.widths)
        if self.shortcut != "projection" and any(a > b for a, b in zip(ends, self.widths)):  # noqa: B905
            raise InputError(
                f"widths {ends} shrink: use shortcut='projection', as other shortcuts only add maps"
            )


class Branch(nnx.Module):
    """The convolutions of a residual block; BatchNorm and ReLU follow each but the last.

    In a post-activation block BatchNorm follows the last as well.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        stride: int,
        config: ResNetConfig,
        *,
        conv: Callable[..., Conv],
    ):
        features, sizes, strides = [in_features, out_features, out_features], [3, 3], [stride, 1]
        if config.bottleneck_blocks:
            inner = out_features // 4
            features, sizes = [in_features, inner, inner, out_features], [1, 3, 1]
            strides = [stride, 1, 1] if config.pre_activation else [1, stride, 1]
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
    """The addend of a block's branch where feature maps change in number or size."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        stride: int,
        config: ResNetConfig,
        *,
        conv: Callable[..., Conv],
    ):
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

    With pre-activation the block is shortcut(x) + branch(ReLU(norm(x))). A projection then reads
    the normalised maps too.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        stride: int,
        config: ResNetConfig,
        *,
        rngs: nnx.Rngs,
    ):
        conv = functools.partial(
            Conv, kernel_init=_kernel_init(config), param_dtype=config.param_dtype, rngs=rngs
        )
        self.config = config
        self.branch = Branch(in_features, out_features, stride, config, conv=conv)
        changes = in_features != out_features or stride > 1
        self.shortcut = (
            Shortcut(in_features, out_features, stride, config, conv=conv) if changes else None
        )
        norm = functools.partial(BatchNorm, in_features, param_dtype=config.param_dtype)
        self.norm = norm() if config.pre_activation else None

    def __call__(self, x: jax.Array, mode: Mode, survival: jax.Array) -> jax.Array:
        """Returns the block's output.

        `survival` is the probability that the branch is kept in training.
        """
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
        """Returns the branch's output, or zeros: one random choice for the whole batch.

        A skipped branch is not computed, and its running statistics stay as they are.
        """
        graphdef, *states = nnx.split(self.branch, nnx.Param, nnx.BatchStat)

        def compute(params, batch_stats):
            branch = nnx.merge(graphdef, params, batch_stats)
            return branch(x, mode.fold(0)), nnx.state(branch, nnx.BatchStat)

        def skip(params, batch_stats):
            return jnp.zeros_like(shortcut), batch_stats

        key = mode.fold(1).key
        assert key is not None
        keep = jax.random.bernoulli(key, survival)
        y, batch_stats = lax.cond(keep, compute, skip, *states)
        nnx.update(self.branch, batch_stats)
        return y


class Stage(nnx.Module):
    """Blocks of equal width; the first may change the size and number of feature maps."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        stride: int,
        count: int,
        config: ResNetConfig,
        *,
        rngs: nnx.Rngs,
    ):
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


class ResNet(Network):
    """A residual network, see `Network`."""

    config: ResNetConfig
    pools_last_map = True

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        norm = functools.partial(BatchNorm, param_dtype=config.param_dtype)
        features = config.stem_features
        size, stride = (7, 2) if config.stem == "imagenet" else (3, 1)
        self.conv1 = Conv(
            config.in_channels,
            features,
            size,
            stride=stride,
            kernel_init=_kernel_init(config),
            param_dtype=config.param_dtype,
            rngs=rngs,
        )
        is_normalized = config.stem == "imagenet" or not config.pre_activation
        self.norm1 = norm(features) if is_normalized else None
        self.stages: nnx.List[Stage] = nnx.List()
        for i, (count, width) in enumerate(zip(config.block_config, config.widths, strict=True)):
            stride = 2 if i else 1
            self.stages.append(Stage(features, width, stride, count, config, rngs=rngs))
            features = width
        self.norm = norm(features) if config.pre_activation else None
        self.classifier = classifier(
            features, config.num_classes, param_dtype=config.param_dtype, rngs=rngs
        )
        if config.dropout_rate or config.survival < 1:
            self.rngs = nnx.Rngs(dropout=rngs.dropout())

    def logits(self, images: jax.Array, mode: Mode) -> jax.Array:
        *_, x = self.feature_maps(images, mode).values()
        return self.classifier(global_average(x, self.config.param_dtype))

    def feature_maps(self, images: jax.Array, mode: Mode) -> dict[str, jax.Array]:
        """Returns `stem`, `stage1` and so on; the classifier reads the last one.

        With pre-activation `norm` is the last: the last stage's maps, normalised and rectified.
        """
        config = self.config
        halvings = len(config.widths) - 1 + (2 if config.stem == "imagenet" else 0)
        x = self.conv1(self.inputs(images, 2**halvings))
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
        """Returns each block's probability to be kept in training: linear decay (1603.09382)."""
        blocks = sum(self.config.block_config)
        return jnp.asarray(1 - np.arange(1, blocks + 1) / blocks * (1 - self.config.survival))


def _kernel_init(config: ResNetConfig) -> Initializer:
    return he_normal_fan_in if config.kernel_init == "fan_in" else he_normal
