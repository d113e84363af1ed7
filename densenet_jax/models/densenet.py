"""DenseNet: plain, -B, -C and -BC, for small images and for ImageNet.

Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, and "Convolutional Networks
with Dense Connectivity", TPAMI 2019. Section numbers below are those of the CVPR paper.
README.md in this directory explains how the memory of a block stays linear in its depth.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from densenet_jax.errors import InputError, counted
from densenet_jax.models.layers import (
    BatchNorm,
    Conv,
    FeatureMap,
    Mode,
    ScaleShift,
    SqueezeExcitation,
    Statistics,
    classifier,
    concatenate_statistics,
    global_average,
    normalize_relu,
)
from densenet_jax.models.network import Network, NetworkConfig, Stem
from densenet_jax.models.pooling import average_pool, max_pool
from densenet_jax.models.remat import Remat, grow, join, remat_if


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseNetConfig(NetworkConfig):
    """The description of a DenseNet. The defaults are DenseNet-BC, L = 100, k = 12 of Table 2.

    Attributes:
      growth_rate: k, the number of feature maps that each layer adds.
      depth: L, for three equal blocks (section 3, implementation details); or set block_config.
      block_config: layers in each block; None derives it from depth.
      bottleneck: width of the 1x1 convolution before each 3x3 one, in growth rates; 0 for none.
      compression: theta, the share of feature maps that a transition keeps.
      connectivity: which earlier layers of its block a layer reads; `layers_read` in
        densenet_jax/models/densenet.py defines the choices. With "full", transitions only pool, and
        a layer reads all earlier layers of the network (TPAMI Figures 9 and 10).
      span: how many layers back the connectivity "span" reaches.
      growth_factor: multiplies the growth rate from block to block (TPAMI Figure 11).
      post_activation: normalise and rectify after each convolution, once for all readers, instead
        of before it (TPAMI Figure 12); see densenet_jax/models/post_activation.py.
      stem_features: filters of the first convolution; None is 2k.
      stem: "cifar" (3x3) or "imagenet" (7x7 of stride 2, then 3x3 max-pooling of stride 2).
      dropout_rate: dropout probability after every convolution but the first (section 4.2).
      se_ratio: number of a layer's new maps for each hidden unit of its squeeze-and-excitation,
        16 in SE-DenseNet; 0 for none.
      remat: what the backward pass recomputes: "none", "concat" (concatenation, normalisation
        and ReLU: memory linear in depth, TPAMI section 3.4) or "layer" (the bottleneck as well).
      block: how dense blocks train: "xla" (plain JAX), "kernels" (GPU kernels) or "auto"; README.md
        in this directory has the rules.
      bn_group_size: number of images of a batch that share batch statistics; 0: all.
    """

    growth_rate: int = 12
    depth: int | None = 100
    block_config: tuple[int, ...] | None = None
    bottleneck: int = 4
    compression: float = 0.5
    connectivity: Literal["block", "full", "span", "odd_even", "logarithmic"] = "block"
    span: int = 12
    growth_factor: int = 1
    post_activation: bool = False
    stem_features: int | None = None
    stem: Stem = "cifar"
    dropout_rate: float = 0.0
    se_ratio: int = 0
    remat: Remat = "concat"
    block: Literal["auto", "xla", "kernels"] = "auto"
    bn_group_size: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(growth_rate=1, bottleneck=0, span=1, growth_factor=1, stem_features=1,
                         se_ratio=0, bn_group_size=0)  # fmt: skip
        if not 0 < self.compression <= 1:
            raise InputError(
                f"compression is {self.compression:g}: it must be above 0 and at most 1 "
                "(the share of feature maps that a transition keeps; the papers use 0.5)"
            )
        if (self.depth is None) == (self.block_config is None):
            raise InputError("give either depth or block_config, not both or neither")
        if not self.blocks or not all(isinstance(n, int) and n > 0 for n in self.blocks):
            raise InputError(f"block_config is {self.blocks}: every block needs at least one layer")

    @property
    def blocks(self) -> tuple[int, ...]:
        """Number of layers in each dense block. Raises InputError for an impossible depth."""
        if self.block_config is not None:
            return tuple(self.block_config)
        step, kind = (6, "with") if self.bottleneck else (3, "without")
        n, remainder = divmod((self.depth or 0) - 4, step)
        if n < 1 or remainder:
            below = step * max(n, 1) + 4
            raise InputError(
                f"depth is {self.depth}: a DenseNet {kind} bottlenecks has depth {step} n + 4, "
                f"for example {below} or {below + step}"
            )
        return n, n, n


def layers_read(config: DenseNetConfig, layer: int) -> list[int]:
    """Returns the numbers of the layers that a layer of a block reads; 0 is the block's input."""
    earlier = range(layer)
    if config.connectivity == "span":
        return [s for s in earlier if layer - s <= config.span]
    if config.connectivity == "odd_even":
        return [s for s in earlier if (layer - s) % 2]
    if config.connectivity == "logarithmic":
        return [s for s in earlier if (layer - s).bit_count() == 1]  # 1, 2, 4, 8, ... back.
    return list(earlier)


class Reading(NamedTuple):
    """Feature maps as one reader takes them: with its scale and shift for their concatenation."""

    values: list[jax.Array]
    scale_shift: ScaleShift

    def active(self) -> jax.Array:
        """Returns ReLU(norm(concatenation)), `[N, C, H, W]`."""
        return normalize_relu(join(self.values), self.scale_shift)

    def average(self) -> jax.Array:
        """Returns the means of `active()` over positions, `[N, C]`."""
        return global_average(self.active(), self.scale_shift[0].dtype)


def read(maps: list[FeatureMap], norm: BatchNorm) -> Reading:
    """Returns `maps` for the reader with BatchNorm `norm`; in training updates `norm`."""
    statistics = concatenate_statistics(maps)
    norm.update_running(statistics)
    return Reading([m.values for m in maps], norm.scale_shift(statistics))


class DenseLayer(nnx.Module):
    """BN-ReLU-Conv3x3, or BN-ReLU-Conv1x1-BN-ReLU-Conv3x3 with a bottleneck (section 3).

    Reads earlier feature maps of its block, `in_features` channels in all, and returns k new ones.
    """

    def __init__(self, in_features: int, k: int, config: DenseNetConfig, *, rngs: nnx.Rngs):
        dtype = config.param_dtype
        conv = functools.partial(Conv, param_dtype=dtype, rngs=rngs)
        self.config = config
        self.norm1 = BatchNorm(in_features, param_dtype=dtype)
        if config.bottleneck:
            width = config.bottleneck * k
            self.conv1 = conv(in_features, width, 1)
            self.norm2 = BatchNorm(width, param_dtype=dtype)
            self.conv2 = conv(width, k, 3)
        else:
            self.conv1 = conv(in_features, k, 3)
        if config.se_ratio:
            hidden = max(k // config.se_ratio, 1)
            self.excitation = SqueezeExcitation(k, hidden, param_dtype=dtype, rngs=rngs)

    def __call__(self, maps: list[FeatureMap], mode: Mode) -> FeatureMap:
        compute = functools.partial(self._compute, mode=mode)
        new, inner = remat_if(self.config.remat == "layer", compute)(self.read(maps))
        if self.config.bottleneck:
            # Outside `compute`, which the backward pass may run again.
            self.norm2.update_running(inner)
        return new

    def read(self, maps: list[FeatureMap]) -> Reading:
        return read(maps, self.norm1)

    def _compute(self, reading: Reading, mode: Mode) -> tuple[FeatureMap, Statistics | None]:
        """Returns the new feature maps, and the batch statistics inside the bottleneck."""
        rate, inner = self.config.dropout_rate, None
        normalize_conv = remat_if(self.config.remat == "concat", concat_normalize_conv)
        x = mode.fold(0).dropout(normalize_conv(reading, self.conv1), rate)
        if self.config.bottleneck:
            inner = mode.with_statistics(x, self.norm2.mean[...]).statistics
            x = normalize_conv(Reading([x], self.norm2.scale_shift(inner)), self.conv2)
            x = mode.fold(1).dropout(x, rate)
        if self.config.se_ratio:
            x = self.excitation(x)
        return mode.with_statistics(x, mode.expected_mean), inner


class Transition(nnx.Module):
    """BN-ReLU-Conv1x1, then 2x2 average pooling (section 3, pooling layers)."""

    def __init__(self, features: int, kept: int, config: DenseNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.norm = BatchNorm(features, param_dtype=config.param_dtype)
        self.conv = Conv(features, kept, 1, param_dtype=config.param_dtype, rngs=rngs)

    def __call__(self, maps: list[FeatureMap], mode: Mode) -> FeatureMap:
        # Pooling and a 1x1 convolution commute unless dropout comes between them. Pooling first
        # takes a quarter of the arithmetic.
        pools_first = not self.config.dropout_rate
        function = functools.partial(concat_normalize_conv, pools_first=pools_first)
        normalize_conv = remat_if(self.config.remat != "none", function)
        x = normalize_conv(read(maps, self.norm), self.conv)
        if not pools_first:
            x = average_pool(mode.dropout(x, self.config.dropout_rate))
        return mode.with_statistics(x, mode.expected_mean)


class Pooling(nnx.Module):
    """2x2 average pooling alone: the transition of "full" connectivity."""

    norm = None

    def __call__(self, maps: list[FeatureMap], mode: Mode) -> FeatureMap:
        x = average_pool(jnp.concatenate([m.values for m in maps], axis=1))
        return mode.with_statistics(x, mode.expected_mean)


class DenseNet(Network):
    """A DenseNet, pre-activation; `forms.build_densenet` builds all kinds."""

    config: DenseNetConfig
    # The classes of the parts, which post_activation.py replaces.
    layer_type, transition_type, pooling_type = DenseLayer, Transition, Pooling
    pools_last_map = True

    def __init__(self, config: DenseNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        dtype = config.param_dtype
        conv = functools.partial(Conv, param_dtype=dtype, rngs=rngs)
        features = config.stem_features or 2 * config.growth_rate
        size, stride = (7, 2) if config.stem == "imagenet" else (3, 1)
        self.conv0 = conv(config.in_channels, features, size, stride=stride)
        if config.stem == "imagenet":
            self.norm0 = BatchNorm(features, param_dtype=dtype)
        self.blocks: nnx.List[nnx.List[DenseLayer]] = nnx.List()
        self.transitions: nnx.List[Transition | Pooling] = nnx.List()
        for b, layers in enumerate(config.blocks):
            if b and config.connectivity == "full":
                self.transitions.append(self.pooling_type())
            elif b:
                kept = int(config.compression * features)
                if kept < 1:
                    raise InputError(
                        f"compression {config.compression:g} leaves none of "
                        f"{counted(features, 'feature map')}: raise it"
                    )
                self.transitions.append(self.transition_type(features, kept, config, rngs=rngs))
                features = kept
            k = config.growth_rate * config.growth_factor**b
            self.blocks.append(nnx.List())
            for number in range(1, layers + 1):
                in_features = sum(k if s else features for s in layers_read(config, number))
                self.blocks[-1].append(self.layer_type(in_features, k, config, rngs=rngs))
            features += layers * k
        self.norm5 = BatchNorm(features, param_dtype=dtype)
        self.classifier = classifier(features, config.num_classes, param_dtype=dtype, rngs=rngs)
        if config.dropout_rate:
            self.rngs = nnx.Rngs(dropout=rngs.dropout())

    def logits(self, images: jax.Array, mode: Mode) -> jax.Array:
        *_, last = self._stages(images, mode).values()
        average = remat_if(self.config.remat != "none", Reading.average)
        return self.classifier(average(self.read_last(last)))

    def feature_maps(self, images: jax.Array, mode: Mode) -> dict[str, jax.Array]:
        """Returns `stem`, `block1`, `transition1`, `block2` and so on, and `norm5`.

        `norm5` is the last block, normalised and rectified, whose averages the classifier reads.
        """
        stages = self._stages(images, mode)
        found = {n: jnp.concatenate([m.values for m in maps], 1) for n, maps in stages.items()}
        (*_, last), (*_, x) = stages.values(), found.values()
        return found | {"norm5": normalize_relu(x, self.read_last(last).scale_shift)}

    def read_last(self, maps: list[FeatureMap]) -> Reading:
        return read(maps, self.norm5)

    def _stages(self, images: jax.Array, mode: Mode) -> dict[str, list[FeatureMap]]:
        """Returns the feature maps that each stage gives, in order (Figure 2)."""
        halvings = len(self.blocks) - 1 + (2 if self.config.stem == "imagenet" else 0)
        maps = [self.stem(self.inputs(images, 2**halvings), self.layer_mode(mode, 0, 0))]
        stages = {"stem": maps}
        for b in range(len(self.blocks)):
            if b:
                maps = [self.transitions[b - 1](maps, self.layer_mode(mode, b, 0))]
                stages[f"transition{b}"] = maps
            stages[f"block{b + 1}"] = maps = self.block(b, maps, mode)
        return stages

    def stem(self, images: jax.Array, mode: Mode) -> FeatureMap:
        x = self.conv0(images)
        if self.config.stem == "imagenet":
            x = max_pool(self.norm0(x, mode))
        return mode.with_statistics(x, mode.expected_mean)

    def block(self, b: int, maps: list[FeatureMap], mode: Mode) -> list[FeatureMap]:
        """Returns the block's input and the maps of all its layers: x_0, ..., x_n (Figure 1)."""
        layers = self.blocks[b]

        def new_maps(number: int, earlier: list[FeatureMap]) -> FeatureMap:
            """Returns x_l = H_l([x_0, x_1, ..., x_(l-1)]) (equation 2)."""
            maps_read = [earlier[s] for s in layers_read(self.config, number)]
            return layers[number - 1](maps_read, self.layer_mode(mode, b, number))

        return grow(maps, len(layers), new_maps)

    def layer_mode(self, mode: Mode, block: int, layer: int) -> Mode:
        """Returns the mode of a layer; layer 0 is the stem or the transition before the block.

        Its expected mean is the running mean of the next reader, whose last channels are the
        layer's maps. A `Pooling`, which follows blocks in "full" connectivity, has no such mean.
        """
        mode = mode.fold(block).fold(layer)
        norm: BatchNorm | None = self.norm5
        if layer < len(self.blocks[block]):
            norm = self.blocks[block][layer].norm1
        elif block < len(self.transitions):
            norm = self.transitions[block].norm
        if norm is None or not mode.train:
            return mode
        k = self.config.growth_rate * self.config.growth_factor**block
        return mode._replace(expected_mean=norm.mean[...][-k if layer else 0 :])


def concat_normalize_conv(reading: Reading, conv: Conv, pools_first: bool = False) -> jax.Array:
    """Returns conv(ReLU(norm(concatenation))), averaged over 2x2 before conv if `pools_first`.

    Its intermediate values, if all layers kept them, would grow with the square of the depth.
    """
    x = reading.active()
    return conv(average_pool(x) if pools_first else x)
