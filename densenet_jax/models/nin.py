"""Network in Network, and the Deeply Supervised Net built on it.

Lin et al., ICLR 2014 (arXiv 1312.4400); Lee et al., AISTATS 2015 (1409.5185). Widths and poolings
are those of the authors' released configurations.
"""

import dataclasses
import functools
import math

import jax
from flax import nnx

from densenet_jax.errors import InputError, counted
from densenet_jax.models.initializers import he_normal_fan_in, normal
from densenet_jax.models.layers import Conv, Mode, global_average, linear, relu
from densenet_jax.models.network import Network, NetworkConfig
from densenet_jax.models.pooling import max_pool


@dataclasses.dataclass(frozen=True, kw_only=True)
class NINConfig(NetworkConfig):
    """The description of a Network in Network. The defaults are those for CIFAR.

    Attributes:
      mlpconv_widths: filters of each convolution, three in each block. The very last convolution
        produces the classes and is not listed.
      kernel_sizes: kernel size of the first convolution of each block; the other two are 1x1.
      dropout_rate: dropout probability after the first and the second block.
      kernel_std: standard deviation of the normal distribution that initialises kernels; 0: He's,
        by fan-in.
      companions: whether a linear classifier reads each block in training, as in the Deeply
        Supervised Net.
      companion_size: height and width of the images for which companions are built.
    """

    mlpconv_widths: tuple[int, ...] = (192, 160, 96, 192, 192, 192, 192, 192)
    kernel_sizes: tuple[int, ...] = (5, 5, 3)
    dropout_rate: float = 0.5
    kernel_std: float = 0.05
    companions: bool = False
    companion_size: int = 32
    has_classifier = False  # Averages of the last convolution are the logits.

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(mlpconv_widths=1, kernel_sizes=1, kernel_std=0, companion_size=4)
        if len(self.mlpconv_widths) != 3 * len(self.kernel_sizes) - 1:
            raise InputError(
                f"mlpconv_widths are {len(self.mlpconv_widths)}: "
                f"{counted(len(self.kernel_sizes), 'block')} must have "
                f"{3 * len(self.kernel_sizes) - 1}, as the last convolution gives the classes"
            )


class NIN(Network):
    """A Network in Network, see `Network`.

    With companions, a forward pass in training stores their logits in `companion_logits`, of type
    `nnx.Intermediate`.
    """

    config: NINConfig
    companion_logits: nnx.Intermediate

    def __init__(self, config: NINConfig, *, rngs: nnx.Rngs):
        self.config = config
        init = normal(config.kernel_std) if config.kernel_std else he_normal_fan_in
        dtype = config.param_dtype
        conv = functools.partial(Conv, bias=True, kernel_init=init, param_dtype=dtype, rngs=rngs)
        widths = (config.in_channels, *config.mlpconv_widths, config.num_classes)
        sizes = [size for first in config.kernel_sizes for size in (first, 1, 1)]
        self.convs = nnx.List(conv(widths[i], widths[i + 1], size) for i, size in enumerate(sizes))
        self.companions: nnx.List[nnx.Linear] = nnx.List()
        if config.companions:
            side, classes = config.companion_size, config.num_classes
            for width in widths[1::3]:
                features = width * side * side
                self.companions.append(
                    linear(features, classes, kernel_init=init, param_dtype=dtype, rngs=rngs)
                )
                side = math.ceil(side / 2)
        if config.dropout_rate:
            self.rngs = nnx.Rngs(dropout=rngs.dropout())

    def logits(self, images: jax.Array, mode: Mode) -> jax.Array:
        config = self.config
        x, companion_logits = self.inputs(images, 4), []
        if config.companions and mode.train and x.shape[2:] != (config.companion_size,) * 2:
            raise InputError(
                f"the companions are built for images of {config.companion_size} x "
                f"{config.companion_size}, not {x.shape[2]} x {x.shape[3]}: set companion_size"
            )
        for i, conv in enumerate(self.convs):
            x = conv(x)
            if i % 3 == 0 and config.companions and mode.train:
                companion = self.companions[i // 3]
                companion_logits.append(companion(x.reshape(len(x), -1).astype(config.param_dtype)))
            is_last = i == len(self.convs) - 1
            # The authors of Network in Network rectify even the last convolution; those of the
            # Deeply Supervised Net do not.
            if not (is_last and config.companions):
                x = relu(x)
            if i % 3 == 2 and not is_last:
                x = mode.fold(i).dropout(max_pool(x, padding=(0, 1)), config.dropout_rate)
        if companion_logits:
            self.companion_logits = nnx.Intermediate(tuple(companion_logits))
        return global_average(x, config.param_dtype)
