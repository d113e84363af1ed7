"""FractalNet, with drop-path (Larsson et al., ICLR 2017, arXiv 1605.07648)."""

import dataclasses
import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from densenet_jax.models.initializers import xavier_uniform
from densenet_jax.models.layers import BatchNorm, Conv, Mode, classifier, global_average
from densenet_jax.models.network import Network, NetworkConfig
from densenet_jax.models.pooling import max_pool


@dataclasses.dataclass(frozen=True, kw_only=True)
class FractalNetConfig(NetworkConfig):
    """The description of a FractalNet. The defaults are the network with 21 layers.

    Attributes:
      columns: C; a block's columns have 1, 2, 4, ... 2^(C-1) convolutions.
      widths: feature maps in each block; 2x2 max-pooling follows each block.
      dropout_rate: dropout probability in the last block; earlier blocks have less, linearly down
        to 0 in the first.
      drop_path_rate: probability that local drop-path drops an input of a join. A random half of
        all steps keeps one column of the whole network instead (global drop-path).
      bn_group_size: number of images of a batch that share batch statistics; 0: all.
    """

    columns: int = 3
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    bn_group_size: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(columns=1, widths=1, bn_group_size=0)


class FractalConv(nnx.Module):
    """Convolution, dropout, BatchNorm without scale and shift, ReLU, in the authors' order."""

    def __init__(self, in_features: int, out_features: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv = Conv(
            in_features,
            out_features,
            3,
            bias=True,
            kernel_init=xavier_uniform,
            param_dtype=dtype,
            rngs=rngs,
        )
        self.norm = BatchNorm(out_features, learned=False, param_dtype=dtype)

    def __call__(self, x: jax.Array, mode: Mode, dropout_rate: float) -> jax.Array:
        return self.norm(mode.dropout(self.conv(x), dropout_rate), mode)


class Paths(NamedTuple):
    """The paths that drop-path keeps in one training step, the same for all images."""

    key: jax.Array
    rate: float
    is_global: jax.Array
    column: jax.Array

    @classmethod
    def draw(cls, key: jax.Array, rate: float, columns: int) -> "Paths":
        """Draws whether drop-path is global, and which column it keeps then."""
        kind_key, column_key, key = jax.random.split(key, 3)
        column = jax.random.randint(column_key, (), 0, columns)
        return cls(key, rate, jax.random.bernoulli(kind_key), column)

    def kept(self, join: int, inputs: int) -> jax.Array:
        """Returns 1 for each input of a join that is kept, else 0; input c is column c.

        Local drop-path keeps a random input if it would drop all. Global drop-path keeps the step's
        column; a join without that column keeps all inputs, but no kept path leads through it.
        """
        drop_key, spare_key = jax.random.split(jax.random.fold_in(self.key, join))
        local = jax.random.bernoulli(drop_key, 1 - self.rate, (inputs,))
        spare = jnp.arange(inputs) == jax.random.randint(spare_key, (), 0, inputs)
        local = jnp.where(local.any(), local, spare)
        alone = (jnp.arange(inputs) == self.column) | (self.column >= inputs)
        return jnp.where(self.is_global, alone, local).astype(jnp.float32)


def join(inputs: list[jax.Array], kept: jax.Array | None) -> jax.Array:
    """Returns the mean of the `inputs` that are kept: all of them if `kept` is None."""
    if kept is None:
        return functools.reduce(operator.add, inputs) / len(inputs)
    weights = kept / kept.sum()
    weighted = [x * weights[i].astype(x.dtype) for i, x in enumerate(inputs)]
    return functools.reduce(operator.add, weighted)


class FractalBlock(nnx.Module):
    """Columns of 2^(C-1), ..., 2, 1 convolutions side by side, joined wherever they end together.

    The last join follows the max-pooling of each column.
    """

    def __init__(
        self, in_features: int, out_features: int, config: FractalNetConfig, *, rngs: nnx.Rngs
    ):
        self.length = 2 ** (config.columns - 1)
        self.columns: nnx.List[nnx.List[FractalConv]] = nnx.List()
        for column in range(config.columns):
            convs: nnx.List[FractalConv] = nnx.List()
            features = in_features
            for _ in range(self.length // 2**column):
                convs.append(
                    FractalConv(features, out_features, dtype=config.param_dtype, rngs=rngs)
                )
                features = out_features
            self.columns.append(convs)

    def __call__(
        self, x: jax.Array, mode: Mode, dropout_rate: float, paths: Paths | None
    ) -> jax.Array:
        ends = [x] * len(self.columns)
        for depth in range(1, self.length + 1):
            # Column c has a convolution every 2^c steps, so the first columns end here.
            joined = [c for c in range(len(self.columns)) if depth % 2**c == 0]
            for c in joined:
                conv = self.columns[c][depth // 2**c - 1]
                ends[c] = conv(ends[c], mode.fold(depth).fold(c), dropout_rate)
            if depth == self.length:
                ends = [max_pool(end, size=2, padding=(0, 0)) for end in ends]
            kept = paths.kept(depth, len(joined)) if paths else None
            ends[: len(joined)] = [join([ends[c] for c in joined], kept)] * len(joined)
        return ends[0]


class FractalNet(Network):
    """A FractalNet, see `Network`."""

    config: FractalNetConfig

    def __init__(self, config: FractalNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.blocks: nnx.List[FractalBlock] = nnx.List()
        features = config.in_channels
        for width in config.widths:
            self.blocks.append(FractalBlock(features, width, config, rngs=rngs))
            features = width
        self.classifier = classifier(
            features,
            config.num_classes,
            kernel_init=xavier_uniform,
            param_dtype=config.param_dtype,
            rngs=rngs,
        )
        if config.dropout_rate or config.drop_path_rate:
            self.rngs = nnx.Rngs(dropout=rngs.dropout())

    def logits(self, images: jax.Array, mode: Mode) -> jax.Array:
        config, blocks, paths = self.config, len(self.blocks), None
        x = self.inputs(images, 2**blocks)
        if mode.train and config.drop_path_rate:
            key = mode.fold(blocks).key
            assert key is not None
            paths = Paths.draw(key, config.drop_path_rate, config.columns)
        for b, block in enumerate(self.blocks):
            rate = config.dropout_rate * b / max(blocks - 1, 1)
            block_paths = paths and paths._replace(key=jax.random.fold_in(paths.key, b))
            x = block(x, mode.fold(b), rate, block_paths)
        return self.classifier(global_average(x, config.param_dtype))
