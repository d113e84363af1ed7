"""All-CNN-C: convolutions only, some of them of stride 2 in place of pooling.

Springenberg et al., "Striving for Simplicity", ICLR 2015 workshop (arXiv 1412.6806).
"""

import dataclasses

import jax
from flax import nnx

from densenet_jax.models.initializers import he_normal_fan_in
from densenet_jax.models.layers import Conv, Mode, global_average, relu
from densenet_jax.models.network import Network, NetworkConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllCNNConfig(NetworkConfig):
    """The description of an All-CNN. The defaults are All-CNN-C.

    Attributes:
      stage_widths: filters of the 3x3 convolutions of each stage; the 1x1 convolution after the
        last stage has as many as that stage.
      dropout_rate: dropout probability after each convolution of stride 2.
      input_dropout_rate: dropout probability for the images.
    """

    stage_widths: tuple[int, ...] = (96, 192)
    dropout_rate: float = 0.5
    input_dropout_rate: float = 0.2
    has_classifier = False  # Averages of the last convolution are the logits.

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(stage_widths=1)


class AllCNN(Network):
    """An All-CNN, see `Network`."""

    config: AllCNNConfig

    def __init__(self, config: AllCNNConfig, *, rngs: nnx.Rngs):
        self.config = config
        last = config.stage_widths[-1]
        # Two convolutions and one of stride 2 for each stage, one more 3x3, and two of 1x1.
        widths = [width for width in config.stage_widths for _ in range(3)]
        widths = [config.in_channels, *widths, last, last, config.num_classes]
        sizes = [3] * (len(widths) - 3) + [1, 1]
        self.convs = nnx.List(
            Conv(
                widths[i],
                widths[i + 1],
                size,
                stride=2 if i in self._strided() else 1,
                bias=True,
                kernel_init=he_normal_fan_in,
                param_dtype=config.param_dtype,
                rngs=rngs,
            )
            for i, size in enumerate(sizes)
        )
        if config.dropout_rate or config.input_dropout_rate:
            self.rngs = nnx.Rngs(dropout=rngs.dropout())

    def logits(self, images: jax.Array, mode: Mode) -> jax.Array:
        config = self.config
        x = self.inputs(images, 2 ** len(config.stage_widths))
        x = mode.fold(len(self.convs)).dropout(x, config.input_dropout_rate)
        for i, conv in enumerate(self.convs):
            x = relu(conv(x))  # The last one too: the averages of its positive values are logits.
            if i in self._strided():
                x = mode.fold(i).dropout(x, config.dropout_rate)
        return global_average(x, config.param_dtype)

    def _strided(self) -> range:
        """Returns the indices of the convolutions of stride 2."""
        return range(2, 3 * len(self.config.stage_widths), 3)
