"""A peer for the benchmark: DenseNet as one would write it in Flax from the paper alone.

Every layer concatenates its inputs and normalises the result itself. Nothing is rematerialised.
Modules have the names of ours, so `densenet_jax.weights` works for both.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.models.layers import he_normal, torch_linear

norm = functools.partial(nnx.BatchNorm, use_running_average=False, momentum=0.9, epsilon=1e-5)


def conv(inputs: int, outputs: int, size: int, stride: int = 1, **options) -> nnx.Conv:
    options |= dict(padding=size // 2, use_bias=False, kernel_init=he_normal)
    return nnx.Conv(inputs, outputs, (size, size), stride, **options)


class Layer(nnx.Module):
    """BN-ReLU-Conv, twice with a bottleneck; concatenates its input and its new maps."""

    def __init__(self, features: int, config: DenseNetConfig, **options):
        k, width = config.growth_rate, config.bottleneck * config.growth_rate
        self.norm1 = norm(features, **options)
        if width:
            self.conv1 = conv(features, width, 1, **options)
            self.norm2 = norm(width, **options)
            self.conv2 = conv(width, k, 3, **options)
        else:
            self.conv1 = conv(features, k, 3, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv1(nnx.relu(self.norm1(x)))
        if hasattr(self, "conv2"):
            y = self.conv2(nnx.relu(self.norm2(y)))
        return jnp.concatenate([x, y], axis=-1)


class Transition(nnx.Module):
    """BN-ReLU-Conv1x1, then 2x2 average pooling."""

    def __init__(self, features: int, kept: int, **options):
        self.norm = norm(features, **options)
        self.conv = conv(features, kept, 1, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.avg_pool(self.conv(nnx.relu(self.norm(x))), (2, 2), (2, 2))


class NaiveDenseNet(nnx.Module):
    """The network in training: images `[N, H, W, C]` to logits `[N, num_classes]`.

    Args:
      options: arguments of all layers, such as `dtype` and `rngs`.
    """

    def __init__(self, config: DenseNetConfig, **options):
        features = config.stem_features or 2 * config.growth_rate
        self.large = config.stem == "imagenet"
        size, stride = (7, 2) if self.large else (3, 1)
        self.conv0 = conv(config.in_channels, features, size, stride, **options)
        if self.large:
            self.norm0 = norm(features, **options)
        self.blocks: nnx.List[nnx.List[Layer]] = nnx.List()
        self.transitions: nnx.List[Transition] = nnx.List()
        for layers in config.blocks:
            if self.blocks:
                kept = int(config.compression * features)
                self.transitions.append(Transition(features, kept, **options))
                features = kept
            self.blocks.append(nnx.List())
            for _ in range(layers):
                self.blocks[-1].append(Layer(features, config, **options))
                features += config.growth_rate
        self.norm5 = norm(features, **options)
        options["kernel_init"] = torch_linear
        self.classifier = nnx.Linear(features, config.num_classes, **options)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.conv0(images)
        if self.large:
            x = nnx.relu(self.norm0(x))
            x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for b, block in enumerate(self.blocks):
            if b:
                x = self.transitions[b - 1](x)
            for layer in block:
                x = layer(x)
        return self.classifier(nnx.relu(self.norm5(x)).mean((1, 2)))
