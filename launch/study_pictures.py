"""Writes the pictures of experiments/transfer/study.py.

    python -m launch.study_pictures runs/study/pictures

takes them from Fashion-MNIST, scikit-learn's digits and its two photographs, and writes
TASK/train/CLASS/NUMBER.png and TASK/val/CLASS/NUMBER.png.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from densenet_jax.data import sources
from densenet_jax.errors import InputError
from experiments.transfer.study import CLOTHES, EVERY, OTHERS, PRETRAININGS, SHOES, SIDE
from launch import command
from launch.paths import typed_path

PRETRAINING_PICTURES = 1000  # Of each class.
# The classes of Fashion-MNIST of a task, and its training pictures of each class.
FEW = {"clothes": (CLOTHES, 40), "others": (OTHERS, 40), "shoes": (SHOES, 20)}
Examples = Iterable[tuple[np.ndarray, int]]


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__)
    parser.add_argument("directory", type=typed_path, help="a new directory")
    directory = parser.parse_args(argv).directory
    if directory.exists():
        raise InputError(f"{directory} exists: name a new directory, or remove it")
    write_pictures(directory)


def write_pictures(directory: Path) -> None:
    """Writes the pictures of all tasks and pretrainings, as `TASK/train/CLASS/NUMBER.png`."""
    fashion, digits = sources.load("fashion_mnist"), sources.load("digits")
    for task, (classes, count) in FEW.items():
        _write(directory / task / "train", _of_classes(fashion.train, classes, count))
        _write(directory / task / "val", _of_classes(fashion.test, classes, 200))
    _write(directory / "digits" / "train", _of_classes(digits.train, EVERY, 20))
    _write(directory / "digits" / "val", _of_classes(digits.test, EVERY, 200))
    for part, seed, count in (("train", 0, 33), ("val", 1, 200)):
        _write(directory / "photographs" / part, _patches(count, seed))
    for name, classes in PRETRAININGS.items():
        tree = directory / "pretraining" / name
        _write(tree / "train", _of_classes(fashion.train, classes, PRETRAINING_PICTURES))
        _write(tree / "val", _of_classes(fashion.test, classes, 100))


def _of_classes(split, classes: Iterable[int], count: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the last `count` images of each class."""
    for label in classes:
        for index in np.flatnonzero(split.labels == label)[-count:]:
            image = split.images[index].squeeze()
            # Digits have 16 grey values.
            yield (image * (255 // image.max()) if image.max() <= 16 else image), label


def _patches(count: int, seed: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields patches of six classes: the left, middle and right third of two photographs.

    Patches for training (seed 0) and for testing (seed 1) come from alternate horizontal bands.
    """
    from sklearn import datasets  # Its import changes the filters of warnings.

    random = np.random.default_rng(seed)
    for number, photograph in enumerate(datasets.load_sample_images().images):
        height, width, _ = photograph.shape
        bands, third = height // (2 * SIDE), width // 3
        for part in range(3):
            for _ in range(count):
                band = 2 * random.integers((bands - seed + 1) // 2) + seed
                top = 2 * SIDE * band + random.integers(SIDE)
                left = part * third + random.integers(third - SIDE)
                yield photograph[top : top + SIDE, left : left + SIDE], 3 * number + part


def _write(directory: Path, examples: Examples) -> None:
    for number, (image, label) in enumerate(examples):
        path = directory / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((SIDE, SIDE)).save(path)


if __name__ == "__main__":
    sys.exit(command.run(main))
