"""A peer for the benchmark: DenseNet in PyTorch. Modules have torchvision's names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from types import SimpleNamespace

    from densenet_jax.models.densenet import DenseNetConfig

    # `torch_train` gives the fields in a namespace, so that it need not import JAX.
    Config = DenseNetConfig | SimpleNamespace


class DenseLayer(nn.Module):
    """BN-ReLU-Conv3x3, or BN-ReLU-Conv1x1-BN-ReLU-Conv3x3 with a bottleneck.

    Args:
      checkpointed: whether the backward pass recomputes concatenation, BN, ReLU and the first
        convolution.
    """

    def __init__(self, features: int, config: Config, checkpointed: bool):
        super().__init__()
        k, width = config.growth_rate, config.bottleneck * config.growth_rate
        self.checkpointed = checkpointed
        self.norm1 = nn.BatchNorm2d(features)
        self.conv1 = _conv(features, width, 1) if width else _conv(features, k, 3)
        self.norm2 = nn.BatchNorm2d(width) if width else None
        self.conv2 = _conv(width, k, 3) if width else None

    def read(self, *maps: torch.Tensor) -> torch.Tensor:
        return self.conv1(F.relu(self.norm1(torch.cat(maps, 1)), inplace=True))

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        if self.checkpointed:
            x = checkpoint(self.read, *maps, use_reentrant=False)
        else:
            x = self.read(*maps)
        if self.norm2 is None or self.conv2 is None:
            return x
        return self.conv2(F.relu(self.norm2(x), inplace=True))


class DenseBlock(nn.Module):
    """Layers that each read the input of the block and the maps of all earlier layers."""

    def __init__(self, layers: int, features: int, config: Config, checkpointed: bool):
        super().__init__()
        for i in range(layers):
            layer = DenseLayer(features + i * config.growth_rate, config, checkpointed)
            self.add_module(f"denselayer{i + 1}", layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = [x]
        for layer in self.children():
            maps.append(layer(maps))
        return torch.cat(maps, 1)


class Transition(nn.Module):
    """BN-ReLU-Conv1x1, then 2x2 average pooling."""

    def __init__(self, features: int, kept: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(features)
        self.conv = _conv(features, kept, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.norm(x), inplace=True)), 2)


class TorchDenseNet(nn.Module):
    """The network: images `[N, C, H, W]` to logits `[N, num_classes]`."""

    def __init__(self, config: Config, checkpointed: bool = False):
        super().__init__()
        features = config.stem_features or 2 * config.growth_rate
        self.features = nn.Sequential()
        add = self.features.add_module
        if config.stem == "imagenet":
            add("conv0", _conv(config.in_channels, features, 7, stride=2))
            add("norm0", nn.BatchNorm2d(features))
            add("relu0", nn.ReLU(inplace=True))
            add("pool0", nn.MaxPool2d(3, stride=2, padding=1))
        else:
            add("conv0", _conv(config.in_channels, features, 3))
        for b, layers in enumerate(config.blocks, start=1):
            if b > 1:
                kept = int(config.compression * features)
                add(f"transition{b - 1}", Transition(features, kept))
                features = kept
            add(f"denseblock{b}", DenseBlock(layers, features, config, checkpointed))
            features += layers * config.growth_rate
        add("norm5", nn.BatchNorm2d(features))
        self.classifier = nn.Linear(features, config.num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.features(images), inplace=True)
        return self.classifier(x.mean((2, 3)))


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
