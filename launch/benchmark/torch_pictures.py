"""Reads, crops and augments pictures with PyTorch's DataLoader, as a peer for the input stream."""

import itertools
from collections.abc import Generator

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch.utils.data import DataLoader, Dataset

from densenet_jax.data.augmentation import COMPONENTS, DEVIATIONS
from densenet_jax.data.encoded import Pictures
from densenet_jax.data.facts import FACTS
from densenet_jax.data.pictures import SIDE, decode
from densenet_jax.data.random_crop import draw_box

_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def batches(
    pictures: Pictures, size: int, workers: int, colors: bool
) -> Generator[torch.Tensor, None, None]:
    """Yields batches of `size` images without end; for `colors` see `TorchPictures`."""
    torch.set_num_threads(1)
    loader = DataLoader(
        TorchPictures(pictures, colors),
        size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=True,
    )
    return (batch for _ in itertools.count() for batch, _ in loader)


class TorchPictures(Dataset):
    """Pictures with torchvision's transforms: uint8 `[H, W, 3]`.

    Args:
      colors: adds colour jitter, light and normalisation; images are then float32 `[3, H, W]`.
    """

    def __init__(self, pictures: Pictures, colors: bool):
        self._pictures, self._colors = pictures, colors

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        random = np.random.default_rng()
        encoded = self._pictures[index]
        picture = decode(encoded.data)
        left, top, width, height = draw_box(random, *picture.size)
        cropped = picture.crop((left, top, left + width, top + height))
        image = cropped.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        if random.random() < 0.5:
            image = ImageOps.mirror(image)
        if not self._colors:
            return torch.from_numpy(np.array(image)), int(encoded.label)
        for i in random.permutation(len(_ENHANCERS)):
            image = _ENHANCERS[i](image).enhance(1 + random.uniform(-0.4, 0.4))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        light = (COMPONENTS * DEVIATIONS * random.normal(0, 0.1, 3)).sum(1)
        mean, std = (
            torch.tensor(x)[:, None, None] / 255
            for x in (FACTS["imagenet"].mean, FACTS["imagenet"].std)
        )
        pixels = (pixels + torch.tensor(light, dtype=torch.float32)[:, None, None] - mean) / std
        return pixels, int(encoded.label)
