"""The 19-layer convolutional Highway Network (Srivastava et al., NIPS 2015, arXiv 1507.06228)."""

import dataclasses
import functools
from collections.abc import Callable

import jax
from flax import nnx

from densenet_jax.errors import InputError
from densenet_jax.models.initializers import he_normal_fan_in
from densenet_jax.models.layers import Conv, Mode, classifier, global_average, relu
from densenet_jax.models.network import Network, NetworkConfig
from densenet_jax.models.pooling import max_pool
from densenet_jax.models.stack import Stack

# Initial bias of the gates: nearly closed, so that each layer begins near the identity.
GATE_BIAS = -2


@dataclasses.dataclass(frozen=True, kw_only=True)
class HighwayConfig(NetworkConfig):
    """The description of a Highway Network. The defaults are the network with 19 layers.

    Attributes:
      block_config: highway layers in each stage, which a plain 3x3 convolution begins.
      widths: feature maps in each stage.
      head_features: filters of the 1x1 convolution before the classifier.
      dropout_rate: dropout probability for the images, after each pooling, and before the
        classifier.
    """

    block_config: tuple[int, ...] = (4, 5, 5)
    widths: tuple[int, ...] = (32, 80, 128)
    head_features: int = 100
    dropout_rate: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(block_config=1, widths=1, head_features=1)
        if len(self.block_config) != len(self.widths) or not self.widths:
            raise InputError(
                f"block_config {self.block_config} and widths {self.widths} must have a number "
                "for each stage"
            )


class HighwayLayer(nnx.Module):
    """ReLU(H x) T + x (1 - T) with T = sigmoid(G x), where G is the gate."""

    def __init__(self, features: int, *, conv: Callable[..., Conv]):
        self.conv = conv(features, features, 3)
        self.gate = conv(features, features, 3)
        assert self.gate.bias is not None
        self.gate.bias[...] += GATE_BIAS

    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        gate = nnx.sigmoid(self.gate(x))
        return relu(self.conv(x)) * gate + x * (1 - gate)


class Highway(Network):
    """A Highway Network, see `Network`."""

    config: HighwayConfig

    def __init__(self, config: HighwayConfig, *, rngs: nnx.Rngs):
        self.config = config
        dtype = config.param_dtype
        conv = functools.partial(
            Conv, bias=True, kernel_init=he_normal_fan_in, param_dtype=dtype, rngs=rngs
        )
        features = (config.in_channels, *config.widths)
        self.convs: nnx.List[Conv] = nnx.List()
        self.stacks: nnx.List[Stack] = nnx.List()
        for i, count in enumerate(config.block_config):
            self.convs.append(conv(features[i], features[i + 1], 3))
            layer = functools.partial(HighwayLayer, features[i + 1], conv=conv)
            self.stacks.append(Stack(layer, count))
        self.head = conv(features[-1], config.head_features, 1)
        self.classifier = classifier(
            config.head_features, config.num_classes, param_dtype=dtype, rngs=rngs
        )
        if config.dropout_rate:
            self.rngs = nnx.Rngs(dropout=rngs.dropout())

    def logits(self, images: jax.Array, mode: Mode) -> jax.Array:
        config, last = self.config, len(self.convs)
        x = self.inputs(images, 2 ** (last - 1))
        for i, (conv, stack) in enumerate(zip(self.convs, self.stacks, strict=True)):
            x = mode.fold(i).dropout(x, config.dropout_rate)
            x = stack(relu(conv(x)), mode)
            if i < last - 1:
                x = max_pool(x, size=2, padding=(0, 0))
        x = global_average(relu(self.head(x)), config.param_dtype)
        return self.classifier(mode.fold(last).dropout(x, config.dropout_rate))
