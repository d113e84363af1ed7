"""Prints the images per second of one contestant of `launch.benchmark input`.

python -m launch.benchmark.input_worker NAME DIRECTORY CORES IMAGES BATCH_SIZE
"""

import contextlib
import itertools
import math
import os
import sys
import time
from collections.abc import Generator, Sized
from pathlib import Path

import numpy as np

from densenet_jax.data import imagenet, stream
from densenet_jax.data.encoded import Pictures
from densenet_jax.data.pictures import SIDE

_SEED = 0


def main(name: str, directory: str, cores: str, images: str, batch_size: str) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    pictures = imagenet.find(Path(directory))["train"]
    size, workers = int(batch_size), int(cores)
    steps = math.ceil(int(images) / size)
    warm_up = 2 * workers + 2  # Batches until every worker has made at least one.
    batches = _batches(name, pictures, size, workers, steps + warm_up)
    for _ in itertools.islice(batches, warm_up):
        pass
    started = time.perf_counter()
    count = sum(len(batch) for batch in itertools.islice(batches, steps))
    print(count / (time.perf_counter() - started))
    batches.close()


def _batches(
    name: str, pictures: Pictures, size: int, workers: int, steps: int
) -> Generator[Sized, None, None]:
    """Yields at least `steps` batches of the contestant `name`."""
    if name.startswith("ours"):
        return _ours(pictures, size, steps, workers if "processes" in name else 0)
    from launch.benchmark import torch_pictures  # PyTorch, which ours does not need.

    return torch_pictures.batches(pictures, size, workers, colors=name == "torch-colors")


def _ours(
    pictures: Pictures, size: int, steps: int, workers: int
) -> Generator[np.ndarray, None, None]:
    order = stream.Epochs(_SEED, len(pictures), size, True, len(pictures) // size)
    crop, shape = stream.RandomCrop(SIDE, _SEED), (SIDE, SIDE, 3)
    source = stream.Source(pictures, crop, order, np.arange(size), shape, 0, steps)
    with contextlib.closing(stream.host_batches(source, workers)) as batches:
        for batch in batches:
            yield np.array(batch.images)  # Copies from the workers' memory, as training does.


if __name__ == "__main__":
    main(*sys.argv[1:])
