"""One contestant of `launch.benchmark input`: prints its images a second.

python -m launch.benchmark.input_contestant NAME DIRECTORY CORES IMAGES BATCH_SIZE
"""

import contextlib
import itertools
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from densenet_jax.data import imagenet, stream
from densenet_jax.data.augmentation import COMPONENTS, DEVIATIONS
from densenet_jax.data.encoded import Pictures
from densenet_jax.data.facts import FACTS
from densenet_jax.data.pictures import SIDE, decode
from densenet_jax.data.random_crop import draw_box

_SEED = 0


def main(name: str, directory: str, cores: str, images: str, batch_size: str) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    pictures = imagenet.find(Path(directory))["train"]
    size, workers = int(batch_size), int(cores)
    steps = math.ceil(int(images) / size)
    warm_up = 2 * workers + 2  # Batches, until every worker has made one.
    if name.startswith("ours"):
        batches = _ours(pictures, size, steps + warm_up, workers if "processes" in name else 0)
    else:
        batches = _torch(pictures, size, workers, colors=name == "torch-colors")
    for _ in itertools.islice(batches, warm_up):
        pass
    started = time.perf_counter()
    count = sum(len(batch) for batch in itertools.islice(batches, steps))
    print(count / (time.perf_counter() - started))
    batches.close()


def _ours(pictures: Pictures, size: int, steps: int, workers: int) -> Iterator[np.ndarray]:
    order = stream.Epochs(_SEED, len(pictures), size, True, len(pictures) // size)
    crop, shape = stream.RandomCrop(SIDE, _SEED), (SIDE, SIDE, 3)
    source = stream.Source(pictures, crop, order, np.arange(size), shape, 0, steps)
    with contextlib.closing(stream.host_batches(source, workers)) as batches:
        for batch in batches:
            yield np.array(batch.images)  # As a stream does, out of the memory of workers.


def _torch(pictures: Pictures, size: int, workers: int, colors: bool) -> Iterator:
    import torch

    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(
        TorchPictures(pictures, colors),
        size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=True,
    )
    return (batch for _ in itertools.count() for batch, _ in loader)


class TorchPictures:
    """What torchvision's transforms make of a picture: uint8 `[H, W, 3]`, or float `[3, H, W]`."""

    def __init__(self, pictures: Pictures, colors: bool):
        self._pictures, self._colors = pictures, colors

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int):
        import torch

        random = np.random.default_rng()
        encoded = self._pictures[index]
        picture = decode(encoded.data)
        left, top, width, height = draw_box(random, *picture.size)
        cropped = picture.crop((left, top, left + width, top + height))
        image = cropped.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        if random.random() < 0.5:
            image = ImageOps.mirror(image)
        if not self._colors:
            return torch.from_numpy(np.array(image)), encoded.label
        enhancers = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
        for enhancer in random.permutation(enhancers):
            image = enhancer(image).enhance(1 + random.uniform(-0.4, 0.4))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        light = (COMPONENTS * DEVIATIONS * random.normal(0, 0.1, 3)).sum(1)
        mean, std = (
            torch.tensor(x)[:, None, None] / 255
            for x in (FACTS["imagenet"].mean, FACTS["imagenet"].std)
        )
        pixels = (pixels + torch.tensor(light, dtype=torch.float32)[:, None, None] - mean) / std
        return pixels, encoded.label


if __name__ == "__main__":
    main(*sys.argv[1:])
