r"""Does pretraining help small tasks? Scratch, linear probe, frozen blocks and fine-tuning.

python -m experiments.transfer.study runs/study/pictures
python -m launch.sweep --sweep experiments/transfer/study_pretraining.py \
    --workdir runs/study/pretrained --on local
python -m launch.sweep --sweep experiments/transfer/study.py --workdir runs/study/runs --on local

The first command writes the pictures of five small tasks, from Fashion-MNIST, scikit-learn's digits
and its two photographs. Cost: 60 networks, 20 epochs each of 60 to 200 pictures: 30 minutes on two
CPU cores. Measured: experiments/results/transfer. No published numbers.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn import datasets

from densenet_jax.data import sources
from densenet_jax.train.config import base_config

ROOT = "runs/study"
SIDE = 28
CLOTHES, OTHERS, SHOES = range(5), range(5, 10), (5, 7, 9)
EVERY = range(10)
# Name of a task, and the pretraining whose classes the task does not have.
TASKS = {
    "clothes": "others",
    "others": "clothes",
    "shoes": "no_shoes",
    "digits": "fashion",
    "photographs": "fashion",
}
# Classes of Fashion-MNIST of each pretraining.
PRETRAININGS = {
    "clothes": CLOTHES,
    "others": OTHERS,
    "no_shoes": tuple(set(EVERY) - set(SHOES)),
    "fashion": EVERY,
}
PRETRAINING_PICTURES = 1000  # Of each class.
LOWER_BLOCKS = "^(conv0|blocks/[01]|transitions/[01])/"
Examples = Iterable[tuple[np.ndarray, int]]


def get_config():
    config = base_config()
    config.epochs = 20
    config.eval_every_epochs = 20
    config.batch_size = 20
    config.learning_rate = 0.05
    config.learning_rate_schedule = "cosine"
    config.model.name = "densenet_bc_k12_d22"
    config.data.name = "folder"
    config.data.image_size = SIDE
    config.data.augment = True
    config.data.flip = False
    config.data.crop_padding = 2
    config.data.workers = 0
    return config


def get_hyper(hyper):
    def points(task: str, pretraining: str):
        weights = f"{ROOT}/pretrained/directory=runs-study-pictures-pretraining-{pretraining}"
        methods = [
            (None, None),
            (weights, "all-but-head"),
            (weights, LOWER_BLOCKS),
            (weights, None),
        ]
        init_from, freeze = zip(*methods, strict=True)
        return hyper.product(
            [
                hyper.sweep("config.data.directory", [f"{ROOT}/pictures/{task}"]),
                hyper.zipit(
                    [
                        hyper.sweep("config.init_from", init_from),
                        hyper.sweep("config.freeze", freeze),
                    ]
                ),
                hyper.sweep("config.seed", [0, 1, 2]),
            ]
        )

    return hyper.chainit([points(*task) for task in TASKS.items()])


def write_pictures(directory: Path) -> None:
    """Writes the pictures of all tasks and pretrainings, as `TASK/train/CLASS/NUMBER.png`."""
    fashion, digits = sources.load("fashion_mnist"), sources.load("digits")
    few = {"clothes": (CLOTHES, 40), "others": (OTHERS, 40), "shoes": (SHOES, 20)}
    for task, (classes, count) in few.items():
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
    """Yields the last `count` images of each class, which no pretraining of others reads."""
    for label in classes:
        for index in np.flatnonzero(split.labels == label)[-count:]:
            image = split.images[index].squeeze()
            # Digits have 16 grey values.
            yield (image * (255 // image.max()) if image.max() <= 16 else image), label


def _patches(count: int, seed: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields patches of six classes: the left, middle and right third of two photographs.

    Patches for training (seed 0) and for testing (seed 1) come from alternate bands of a photograph.
    """
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
    write_pictures(Path(sys.argv[1]))
