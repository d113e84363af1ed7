"""The image sets: `load` brings one into memory, always in the order of its published files.

A set is read from the files its authors publish, from a copy prepared by TensorFlow Datasets, or,
for `digits` and the synthetic ones, from nothing at all. Nothing is downloaded.
"""

import dataclasses
import logging
import pathlib

import jax
import numpy as np

from densenet_jax.data import archives, folders, pictures, tfds_copy
from densenet_jax.errors import InputError, suggest


@dataclasses.dataclass(frozen=True)
class Split:
    """Images uint8 [N, H, W, C] and their labels int32 [N]."""

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A set with its splits; `mean` and `std` are per channel, on the scale of the images.

    `crop` makes images of other pictures. `white` is the largest value that an image can have.
    `classes` are the names of the classes, where they are known. `official` says that it has as
    many images as the published set.
    """

    name: str
    train: Split
    test: Split
    validation: Split | None
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: pictures.CentralCrop
    white: float = 255
    classes: tuple[str, ...] | None = None
    official: bool = True


@dataclasses.dataclass(frozen=True)
class _Facts:
    """What is known about a set without reading it."""

    image_shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sizes: dict[str, int]  # images in each part of the official set
    crop: pictures.CentralCrop | None = None  # of sets of pictures of any size
    white: float = 255
    classes: tuple[str, ...] | None = None


# Mean and std of the CIFAR sets are those in the paper's code; SVHN is only divided by 255 (section
# 4.1 of the paper); those of the others were computed on their training images.
_FACTS = {
    "cifar10": _Facts(
        image_shape=(32, 32, 3),
        num_classes=10,
        mean=(125.3, 123.0, 113.9),
        std=(63.0, 62.1, 66.7),
        sizes={"train": 50_000, "test": 10_000},
    ),
    "cifar100": _Facts(
        image_shape=(32, 32, 3),
        num_classes=100,
        mean=(129.3, 124.1, 112.4),
        std=(68.2, 65.4, 70.4),
        sizes={"train": 50_000, "test": 10_000},
    ),
    "svhn": _Facts(
        image_shape=(32, 32, 3),
        num_classes=10,
        mean=(0.0, 0.0, 0.0),
        std=(255.0, 255.0, 255.0),
        sizes={"train": 73_257, "extra": 531_131, "test": 26_032},
    ),
    "fashion_mnist": _Facts(
        image_shape=(28, 28, 1),
        num_classes=10,
        mean=(72.9,),
        std=(90.0,),
        sizes={"train": 60_000, "test": 10_000},
    ),
    "digits": _Facts(
        image_shape=(8, 8, 1),
        num_classes=10,
        mean=(4.88,),
        std=(6.02,),
        sizes={"train": 1_437, "test": 360},
        white=16,
    ),
    "synthetic": _Facts(
        image_shape=(32, 32, 3),
        num_classes=10,
        mean=(124.2, 128.8, 124.3),
        std=(58.4, 58.3, 60.5),
        sizes={"train": 512, "test": 128},
    ),
    "synthetic_imagenet": _Facts(
        image_shape=(224, 224, 3),
        num_classes=1000,
        mean=(123.7, 116.3, 103.5),
        std=(58.4, 57.1, 57.4),
        sizes={"train": 512, "test": 128},
    ),
    # The constants of fb.resnet.torch.
    "imagenet": _Facts(
        crop=pictures.CentralCrop(interpolation="bicubic"),
        image_shape=(pictures.SIDE, pictures.SIDE, 3),
        num_classes=1000,
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        sizes={"train": 1_281_167, "test": 50_000},
    ),
}

FOLDER = "folder"  # Of anybody's pictures.
NAMES = (*_FACTS, FOLDER)

_DEBIAN_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"


def load(
    name: str,
    directory: str | None = None,
    holdout: int = 0,
    examples: int = 0,
    image_size: int = pictures.SIDE,
) -> Dataset:
    """Reads a set into memory.

    Args:
      name: one of `NAMES`.
      directory: folder with the published files, or with a copy prepared by TFDS
        (`<tfds name>/<version>/`). `digits` and the synthetic sets need none, and
        `fashion_mnist` looks where Debian puts it.
      holdout: number of training images to move to `validation`: the last ones, except for
        `svhn`, where two thirds come from "train" and one third from "extra", as many of each
        class.
      examples: keep only so many of the remaining training images, the first; 0: all.
      image_size: side of the images of a "folder", whose short sides are made as long.

    A set that is well formed but not of the official size is accepted, with a logged warning.

    Raises:
      InputError: unknown name, missing or damaged files, impossible `holdout` or `examples`.
    """
    tree = None
    if name == FOLDER:
        tree = folders.find(_directory(name, directory))
        facts = _facts_of(tree, image_size)
    else:
        facts = _facts(name)
    if holdout < 0 or (name == "svhn" and holdout % 30):
        multiple = " and, for svhn, divisible by 30" if name == "svhn" else ""
        raise InputError(f"data.holdout = {holdout} must be 0 or more{multiple}.")
    parts = _read(name, facts, directory, tree)
    sizes = {part: len(parts[part].labels) for part in parts}
    if sizes != facts.sizes:
        logging.getLogger("densenet_jax").warning(
            "%s is not the official set: it has %s images instead of %s.",
            name,
            ", ".join(f"{size} {part}" for part, size in sizes.items()),
            ", ".join(f"{size} {part}" for part, size in facts.sizes.items()),
        )
    if name == "svhn":
        train, validation = _hold_out_svhn(parts["train"], parts["extra"], holdout)
    else:
        train, validation = _hold_out_last(parts["train"], holdout)
    if not 0 <= examples <= len(train.labels):
        raise InputError(f"data.examples is {examples}: there are {len(train.labels)} to train on.")
    if examples:
        train = Split(train.images[:examples], train.labels[:examples])
    return Dataset(
        name=name,
        train=train,
        test=parts["test"],
        validation=validation,
        num_classes=facts.num_classes,
        mean=facts.mean,
        std=facts.std,
        crop=_crop(facts),
        white=facts.white,
        classes=facts.classes,
        official=sizes == facts.sizes,
    )


def describe(name: str, least: int = 0) -> Dataset:
    """The official set with shapes and types (`jax.ShapeDtypeStruct`) in place of arrays.

    Args:
      name: one of `NAMES`.
      least: training images there are at least.

    Raises InputError for an unknown name, and for a set that no memory holds.
    """
    if name in ("imagenet", FOLDER):
        raise InputError(f"{name} cannot be planned for: set data.name to synthetic_imagenet.")
    facts = _facts(name)

    def split(size: int) -> Split:
        return Split(
            jax.ShapeDtypeStruct((size, *facts.image_shape), np.uint8),
            jax.ShapeDtypeStruct((size,), np.int32),
        )

    return Dataset(
        name=name,
        train=split(max(least, sum(n for part, n in facts.sizes.items() if part != "test"))),
        test=split(facts.sizes["test"]),
        validation=None,
        num_classes=facts.num_classes,
        mean=facts.mean,
        std=facts.std,
        crop=_crop(facts),
    )


def image_shape(name: str, image_size: int) -> tuple[int, int, int]:
    """Height, width and channels of a set's images. Raises InputError for an unknown name."""
    return (image_size, image_size, 3) if name == FOLDER else _facts(name).image_shape


def _crop(facts: _Facts) -> pictures.CentralCrop:
    side = min(facts.image_shape[:2])
    return facts.crop or pictures.CentralCrop(side, side, "bicubic")


def _facts_of(tree: folders.Tree, image_size: int) -> _Facts:
    """Anybody's pictures are normalised as ImageNet's are, for networks that learnt from those."""
    return dataclasses.replace(
        _FACTS["imagenet"],
        image_shape=(image_size, image_size, 3),
        crop=pictures.CentralCrop(image_size, image_size, "bicubic"),
        num_classes=len(tree.classes),
        sizes={part: len(files) for part, files in tree.files.items()},
        classes=tree.classes,
    )


def _facts(name: str) -> _Facts:
    if name not in _FACTS:
        raise InputError(f"there is no data set {name!r}: {suggest(name, NAMES)}")
    return _FACTS[name]


def _read(
    name: str, facts: _Facts, directory: str | None, tree: folders.Tree | None
) -> dict[str, Split]:
    """The parts named in `facts.sizes`, from wherever the set lies."""
    if name == "digits":
        return _read_digits()
    if name.startswith("synthetic"):
        return _make_synthetic(facts)
    folder = _directory(name, directory)
    if tree is not None:
        parts = folders.read(tree, facts.crop)
    elif copy := tfds_copy.find(folder, "svhn_cropped" if name == "svhn" else name):
        return {part: _checked(facts, tfds_copy.read(copy, part)) for part in facts.sizes}
    elif name == "imagenet":
        parts = folders.read(folders.find(folder, divided=True), facts.crop)
    else:
        parts = archives.read(name, folder)
    return {
        part: _concatenate([_checked(facts, piece) for piece in parts[part]])
        for part in facts.sizes
    }


def _directory(name: str, directory: str | None) -> pathlib.Path:
    if name == "fashion_mnist":
        directory = directory or _DEBIAN_FASHION_MNIST
    if directory:
        return pathlib.Path(directory).expanduser()
    if name in ("imagenet", FOLDER):
        layout = folders.DIVIDED if name == "imagenet" else folders.LAYOUT
        raise InputError(f"{name} needs data.directory: {layout}.")
    raise InputError(
        f"{name} needs data.directory: the folder with its files, which come from "
        f"{archives.ORIGINS[name]}, or with a copy prepared by TFDS."
    )


def _read_digits() -> dict[str, Split]:
    """scikit-learn's 8x8 digits, 0 to 16; every fifth image is for testing."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    test = np.arange(len(labels)) % 5 == 0
    return {"train": Split(images[~test], labels[~test]), "test": Split(images[test], labels[test])}


def _make_synthetic(facts: _Facts) -> dict[str, Split]:
    """Noise around one coarse random pattern per class, which a small network soon learns."""
    random = np.random.RandomState(0)  # unlike Generator's, its numbers never change
    patterns = random.randint(64, 192, (facts.num_classes, 4, 4, 3))
    cell = facts.image_shape[0] // 4
    parts = {}
    for part, size in facts.sizes.items():
        labels = random.permutation(np.arange(size, dtype=np.int32) % facts.num_classes)
        images = random.randint(-80, 81, (size, *facts.image_shape))
        images += patterns[labels].repeat(cell, 1).repeat(cell, 2)
        parts[part] = Split(images.clip(0, 255).astype(np.uint8), labels)
    return parts


def _checked(facts: _Facts, piece: archives.Piece) -> Split:
    """A piece that fits `facts`, or an InputError that names its source."""
    source, images, labels = piece
    if images.shape[1:] != facts.image_shape or images.dtype != np.uint8:
        raise InputError(
            f"{source} has {images.dtype} images of shape {images.shape[1:]} instead of "
            f"uint8 {facts.image_shape}: it is another set."
        )
    if len(images) != len(labels) or len(images) == 0:
        raise InputError(f"{source} has {len(images)} images and {len(labels)} labels: replace it.")
    if labels.min() < 0 or labels.max() >= facts.num_classes:
        raise InputError(
            f"{source} has labels from {labels.min()} to {labels.max()} instead of 0 to "
            f"{facts.num_classes - 1}: it is damaged or another set."
        )
    return Split(images, labels.astype(np.int32))


def _concatenate(splits: list[Split]) -> Split:
    if len(splits) == 1:  # spares a copy
        return splits[0]
    return Split(
        np.concatenate([split.images for split in splits]),
        np.concatenate([split.labels for split in splits]),
    )


def _hold_out_last(train: Split, holdout: int) -> tuple[Split, Split | None]:
    """Training images without the last `holdout`, and those."""
    if holdout == 0:
        return train, None
    count = len(train.labels) - holdout
    if count <= 0:
        raise InputError(
            f"Cannot hold out {holdout} of {len(train.labels)} training images: lower data.holdout."
        )
    return (
        Split(train.images[:count], train.labels[:count]),
        Split(train.images[count:], train.labels[count:]),
    )


def _hold_out_svhn(train: Split, extra: Split, holdout: int) -> tuple[Split, Split | None]:
    """Training images, "train" before "extra", and the held-out ones: 2/3 and 1/3 of each class.

    So 6,000 are 400 a class of "train" and 200 of "extra", as in the code of the stochastic depth
    paper (this paper gives only the sum). Which ones is a fixed random choice here.
    """
    if holdout == 0:
        return _concatenate([train, extra]), None
    random = np.random.RandomState(0)  # unlike Generator's, its numbers never change
    kept, held = [], []
    shares = (("train", train, holdout // 15), ("extra", extra, holdout // 30))
    for part, split, per_class in shares:
        is_held = np.zeros(len(split.labels), bool)
        for label in range(10):
            members = np.flatnonzero(split.labels == label)
            if per_class >= len(members):
                raise InputError(
                    f"Cannot hold out {per_class} of {len(members)} images of class {label} in "
                    f"svhn's {part!r} part: lower data.holdout."
                )
            is_held[random.permutation(members)[:per_class]] = True
        kept.append(Split(split.images[~is_held], split.labels[~is_held]))
        held.append(Split(split.images[is_held], split.labels[is_held]))
    return _concatenate(kept), _concatenate(held)
