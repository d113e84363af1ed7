"""Network in Network, and the Deeply Supervised Net built on it.

Lin et al., ICLR 2014 (arXiv 1312.4400); Lee et al., AISTATS 2015 (1409.5185). Widths and poolings
are those of the authors' released configurations.
"""

import dataclasses
import math

import jax
from flax import nnx

from densenet_jax.errors import InputError, counted
from densenet_jax.models.initializers import he_normal_fan_in, normal
from densenet_jax.models.layers import (
    Conv,
    Linear,
    Mode,
    channels_first,
    check_images,
    global_average,
    relu,
)
from densenet_jax.models.pooling import max_pool
from densenet_jax.models.settings import NetworkConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class NINConfig(NetworkConfig):
    """What a Network in Network is. The defaults are those for CIFAR.

    Attributes:
      mlpconv_widths: filters of each convolution; a third of them in each block. The very last
        gives the classes, and is not listed.
      kernel_sizes: of the first convolution of each block; the other two are 1x1.
      dropout_rate: after the first and the second block.
      kernel_std: of the normal distribution that kernels begin from; 0: He's, by fan-in.
      companions: whether a linear classifier reads each block in training, as in the Deeply
        Supervised Net.
      companion_size: height and width of the images that companions are built for.
    """

    mlpconv_widths: tuple[int, ...] = (192, 160, 96, 192, 192, 192, 192, 192)
    kernel_sizes: tuple[int, ...] = (5, 5, 3)
    dropout_rate: float = 0.5
    kernel_std: float = 0.05
    companions: bool = False
    companion_size: int = 32

    def __post_init__(self):
        super().__post_init__()
        self.check_least(mlpconv_widths=1, kernel_sizes=1, kernel_std=0, companion_size=4)
        if len(self.mlpconv_widths) != 3 * len(self.kernel_sizes) - 1:
            raise InputError(
                f"mlpconv_widths are {len(self.mlpconv_widths)}: "
                f"{counted(len(self.kernel_sizes), 'block')} must have "
                f"{3 * len(self.kernel_sizes) - 1}, as the last convolution gives the classes."
            )


class NIN(nnx.Module):
    """A Network in Network: images `[N, H, W, in_channels]` to logits `[N, num_classes]`.

    With companions, a pass in training leaves their logits in `companion_logits`, of type
    `nnx.Intermediate`; there is no trace of them in other passes.
    """

    def __init__(self, config: NINConfig, *, rngs: nnx.Rngs):
        self.config = config
        init = dict(
            kernel_init=normal(config.kernel_std) if config.kernel_std else he_normal_fan_in,
            param_dtype=config.param_dtype,
            rngs=rngs,
        )
        widths = (config.in_channels, *config.mlpconv_widths, config.num_classes)
        sizes = [size for first in config.kernel_sizes for size in (first, 1, 1)]
        self.convs = nnx.List(
            Conv(widths[i], widths[i + 1], size, bias=True, **init) for i, size in enumerate(sizes)
        )
        self.companions = nnx.List()
        if config.companions:
            side = config.companion_size
            for conv in self.convs[::3]:
                features = conv.kernel.shape[-1] * side * side
                self.companions.append(Linear(features, config.num_classes, **init))
                side = math.ceil(side / 2)
        if config.dropout_rate:
            self.rngs = nnx.Rngs(dropout=rngs.dropout())

    def __call__(self, images: jax.Array, train: bool = False, mask: jax.Array | None = None):
        """Logits in `param_dtype`. `mask` is for networks with batch statistics: there are none."""
        config = self.config
        check_images(images, config.in_channels, 4)
        if config.companions and train and images.shape[1:3] != (config.companion_size,) * 2:
            raise InputError(
                f"the companions are built for images of {config.companion_size} x "
                f"{config.companion_size}, not {images.shape[1]} x {images.shape[2]}: set "
                "companion_size."
            )
        mode = Mode.of(self, train)
        x, companion_logits = channels_first(images, config.dtype), []
        for i, conv in enumerate(self.convs):
            x = conv(x)
            if i % 3 == 0 and config.companions and train:
                companion = self.companions[i // 3]
                companion_logits.append(companion(x.reshape(len(x), -1).astype(config.param_dtype)))
            is_last = i == len(self.convs) - 1
            # The authors of Network in Network rectify even the last; those of DSN do not.
            if not (is_last and config.companions):
                x = relu(x)
            if i % 3 == 2 and not is_last:
                x = mode.fold(i).dropout(max_pool(x, padding=(0, 1)), config.dropout_rate)
        if companion_logits:
            self.companion_logits = nnx.Intermediate(tuple(companion_logits))
        return global_average(x, config.param_dtype)
