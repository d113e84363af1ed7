"""Computes the synthetic sets: noise around one coarse random pattern per class.

A small network soon learns to distinguish the classes. Tests and benchmarks use these sets.
"""

import dataclasses
from functools import partial

import numpy as np

from densenet_jax.data.dataset import Split, concatenate
from densenet_jax.data.facts import FACTS, Facts
from densenet_jax.data.reader import Found, Reader, Request

# Training images made at a time. The noise takes 8 bytes a value while it is made: 0.6 GB of host
# memory for images of 224 x 224. Another number changes the images after the first 512.
_PIECE = 512


def _read(facts: Facts, request: Request) -> Found:
    """Computes a synthetic set with at least `request.train_images` training images.

    The test images and the first 512 training images do not depend on the number of images.
    """
    sizes = facts.sizes | {"train": max(facts.sizes["train"], request.train_images)}
    random = np.random.RandomState(0)  # Unlike Generator's, its numbers never change.
    patterns = random.randint(64, 192, (facts.num_classes, 4, 4, 3))
    cell = facts.image_shape[0] // 4

    def make(size: int) -> Split:
        labels = random.permutation(np.arange(size, dtype=np.int32) % facts.num_classes)
        images = random.randint(-80, 81, (size, *facts.image_shape))
        images += patterns[labels].repeat(cell, 1).repeat(cell, 2)
        return Split(images.clip(0, 255).astype(np.uint8), labels)

    # The test images come second, so that they do not depend on the number of training images.
    train, test = [make(_PIECE)], make(sizes["test"])
    for start in range(_PIECE, sizes["train"], _PIECE):
        train.append(make(min(_PIECE, sizes["train"] - start)))
    parts = {"train": concatenate(train), "test": test}
    return Found(dataclasses.replace(facts, sizes=sizes), parts)


SYNTHETIC = Reader(partial(_read, FACTS["synthetic"]))
SYNTHETIC_IMAGENET = Reader(partial(_read, FACTS["synthetic_imagenet"]))
