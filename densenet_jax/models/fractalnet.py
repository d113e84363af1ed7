"""FractalNet, with drop-path (Larsson et al., ICLR 2017, arXiv 1605.07648)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from densenet_jax.models.initializers import xavier_uniform
from densenet_jax.models.layers import (
    BatchNorm,
    Conv,
    Linear,
    Mode,
    channels_first,
    check_images,
    global_average,
)
from densenet_jax.models.pooling import max_pool
from densenet_jax.models.settings import NetworkConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class FractalNetConfig(NetworkConfig):
    """What a FractalNet is. The defaults are that with 21 layers.

    Attributes:
      columns: C; a block's columns have 1, 2, 4, ... 2^(C-1) convolutions.
      widths: feature maps in each block; after each, 2x2 max-pooling.
      dropout_rate: of the last block; those before it have less, linearly down to 0 in the first.
      drop_path_rate: how often an input of a join is left out, in local drop-path. Every other
        step, at random, keeps one column of the whole network (global drop-path).
      bn_group_size: how many images of a batch share the statistics that normalise them; 0: all.
    """

    columns: int = 3
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    bn_group_size: int = 0

    def __post_init__(self):
        super().__post_init__()
        self.check_least(columns=1, widths=1, bn_group_size=0)


class FractalConv(nnx.Module):
    """Convolution, dropout, BatchNorm without scale and shift, ReLU: the order of the authors."""

    def __init__(self, in_features: int, out_features: int, *, param_dtype, rngs: nnx.Rngs):
        dtype = dict(param_dtype=param_dtype)
        self.conv = Conv(
            in_features, out_features, 3, bias=True, kernel_init=xavier_uniform, **dtype, rngs=rngs
        )
        self.norm = BatchNorm(out_features, learned=False, **dtype)

    def __call__(self, x: jax.Array, mode: Mode, dropout_rate: float) -> jax.Array:
        return self.norm(mode.dropout(self.conv(x), dropout_rate), mode)


class Paths(NamedTuple):
    """What drop-path decides for one training step, the same for all images."""

    key: jax.Array
    rate: float
    is_global: jax.Array
    column: jax.Array

    @classmethod
    def draw(cls, key: jax.Array, rate: float, columns: int) -> "Paths":
        kind_key, column_key, key = jax.random.split(key, 3)
        column = jax.random.randint(column_key, (), 0, columns)
        return cls(key, rate, jax.random.bernoulli(kind_key), column)

    def kept(self, join: int, inputs: int) -> jax.Array:
        """1 for each of the join's inputs, which are columns 0 to `inputs` - 1, that is kept.

        At least one is: locally, a random one if all would be left out; globally, the step's
        column. A join that does not read that column keeps all, and nothing comes of it.
        """
        drop_key, spare_key = jax.random.split(jax.random.fold_in(self.key, join))
        local = jax.random.bernoulli(drop_key, 1 - self.rate, (inputs,))
        spare = jnp.arange(inputs) == jax.random.randint(spare_key, (), 0, inputs)
        local = jnp.where(local.any(), local, spare)
        alone = (jnp.arange(inputs) == self.column) | (self.column >= inputs)
        return jnp.where(self.is_global, alone, local).astype(jnp.float32)


def join(inputs: list[jax.Array], kept: jax.Array | None) -> jax.Array:
    """The mean of the `inputs` that are kept: all of them if `kept` is None."""
    if kept is None:
        return sum(inputs) / len(inputs)
    weights = kept / kept.sum()
    return sum(x * weights[i].astype(x.dtype) for i, x in enumerate(inputs))


class FractalBlock(nnx.Module):
    """Columns of 2^(C-1), ..., 2, 1 convolutions side by side, joined wherever they end together.

    The last join comes after the max-pooling of each column.
    """

    def __init__(self, in_features: int, out_features: int, config, *, rngs: nnx.Rngs):
        self.length = 2 ** (config.columns - 1)
        self.columns = nnx.List()
        for column in range(config.columns):
            convs, features = nnx.List(), in_features
            for _ in range(self.length // 2**column):
                dtype = dict(param_dtype=config.param_dtype)
                convs.append(FractalConv(features, out_features, **dtype, rngs=rngs))
                features = out_features
            self.columns.append(convs)

    def __call__(self, x: jax.Array, mode: Mode, dropout_rate: float, paths: Paths | None):
        ends = [x] * len(self.columns)
        for depth in range(1, self.length + 1):
            # Column c has a convolution every 2^c steps, so those that end here are the first ones.
            joined = [c for c in range(len(self.columns)) if depth % 2**c == 0]
            for c in joined:
                conv = self.columns[c][depth // 2**c - 1]
                ends[c] = conv(ends[c], mode.fold(depth).fold(c), dropout_rate)
            if depth == self.length:
                ends = [max_pool(end, size=2, padding=(0, 0)) for end in ends]
            kept = paths.kept(depth, len(joined)) if paths else None
            ends[: len(joined)] = [join([ends[c] for c in joined], kept)] * len(joined)
        return ends[0]


class FractalNet(nnx.Module):
    """A FractalNet: images `[N, H, W, in_channels]` to logits `[N, num_classes]`."""

    def __init__(self, config: FractalNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.blocks, features = nnx.List(), config.in_channels
        for width in config.widths:
            self.blocks.append(FractalBlock(features, width, config, rngs=rngs))
            features = width
        self.classifier = Linear(
            features,
            config.num_classes,
            kernel_init=xavier_uniform,
            param_dtype=config.param_dtype,
            rngs=rngs,
        )
        if config.dropout_rate or config.drop_path_rate:
            self.rngs = nnx.Rngs(dropout=rngs.dropout())

    def __call__(self, images: jax.Array, train: bool = False, mask: jax.Array | None = None):
        """Logits `[N, num_classes]`, in `param_dtype`; see `DenseNet.__call__`."""
        config, blocks = self.config, len(self.blocks)
        check_images(images, config.in_channels, 2**blocks)
        mode, paths = Mode.of(self, train, mask), None
        if train and config.drop_path_rate:
            paths = Paths.draw(mode.fold(blocks).key, config.drop_path_rate, config.columns)
        x = channels_first(images, config.dtype)
        for b, block in enumerate(self.blocks):
            rate = config.dropout_rate * b / max(blocks - 1, 1)
            block_paths = paths and paths._replace(key=jax.random.fold_in(paths.key, b))
            x = block(x, mode.fold(b), rate, block_paths)
        return self.classifier(global_average(x, config.param_dtype))
