"""The image sets: `load` finds one, and brings it into memory if it is a small one.

A set is read from the files its authors publish, from a copy prepared by TensorFlow Datasets, or,
for `digits` and the synthetic ones, from nothing at all. Nothing is downloaded. Small sets come in
the order of their published files; of ImageNet and folders of pictures nothing is decoded yet.
"""

import dataclasses
import logging
import pathlib

import jax
import numpy as np

from densenet_jax.data import archives, folders, imagenet, pictures, tfds_copy
from densenet_jax.data.encoded import Pictures, Range
from densenet_jax.data.facts import FACTS, Facts
from densenet_jax.errors import InputError, counted, suggest


@dataclasses.dataclass(frozen=True)
class Split:
    """Images uint8 [N, H, W, C] and their labels int32 [N]."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A set with its splits; `mean` and `std` are per channel, on the scale of the images.

    Splits are in memory, or else pictures in files, to be streamed. `image_shape` is that of what
    a network sees. `crop` makes images of other pictures. `white` is the largest value that an
    image can have. `classes` are the names of the classes, where they are known. `official` says
    that it has as many images as the published set.
    """

    name: str
    train: Split | Pictures
    test: Split | Pictures
    validation: Split | Pictures | None
    image_shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: pictures.CentralCrop
    white: float = 255
    classes: tuple[str, ...] | None = None
    official: bool = True

    @property
    def streamed(self) -> bool:
        return not isinstance(self.train, Split)


FOLDER = "folder"  # Of anybody's pictures.
NAMES = (*FACTS, FOLDER)

# Training images of a synthetic set that are made at once. The noise of a piece takes 8 bytes a
# value: 0.6 GB of host memory for images of 224 x 224. Another number makes another set.
_SYNTHETIC_PIECE = 512
_DEBIAN_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"


def load(
    name: str,
    directory: str | None = None,
    holdout: int = 0,
    examples: int = 0,
    image_size: int = pictures.SIDE,
) -> Dataset:
    """Finds a set; reads it into memory if it is a small one.

    Args:
      name: one of `NAMES`.
      directory: folder with the published files, or with a copy prepared by TFDS
        (`<tfds name>/<version>/`); see also `imagenet.LAYOUT` and `folders.LAYOUT`. `digits` and
        the synthetic sets need none, and `fashion_mnist` looks where Debian puts it.
      holdout: number of training images to move to `validation`: the last ones, except for
        `svhn`, where two thirds come from "train" and one third from "extra", as many of each
        class.
      examples: keep only so many of the remaining training images, the first; 0: all. A synthetic
        set is made larger if `holdout` and `examples` together exceed its 512 training images.
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
    if _is_synthetic(name):
        needed = max(facts.sizes["train"], holdout + examples)
        facts = dataclasses.replace(facts, sizes=facts.sizes | {"train": needed})
    if holdout < 0 or (name == "svhn" and holdout % 30):
        multiple = " and, for svhn, divisible by 30" if name == "svhn" else ""
        raise InputError(f"data.holdout = {holdout} must be 0 or more{multiple}.")
    parts = _read(name, facts, directory, tree)
    sizes = {part: len(parts[part]) for part in parts}
    if sizes != facts.sizes:
        logging.getLogger("densenet_jax").warning(
            "%s is not the official set: it has %s instead of %s.",
            name,
            ", ".join(counted(size, f"{part} image") for part, size in sizes.items()),
            ", ".join(f"{size:,}" for size in facts.sizes.values()),
        )
    if name == "svhn":
        train, validation = _hold_out_svhn(parts["train"], parts["extra"], holdout)
    else:
        train, validation = _hold_out_last(parts["train"], holdout)
    if not 0 <= examples <= len(train):
        raise InputError(f"data.examples is {examples}: there are {len(train)} to train on.")
    if examples:
        train = _between(train, 0, examples)
    return Dataset(
        name=name,
        train=train,
        test=parts["test"],
        validation=validation,
        image_shape=facts.image_shape,
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

    Of ImageNet only the number of pictures is told.

    Args:
      name: one of `NAMES`.
      least: training images there are at least.

    Raises InputError for an unknown name, and for a folder, of which nothing is known.
    """
    if name == FOLDER:
        raise InputError("a folder cannot be planned for: set data.name to imagenet.")
    facts = _facts(name)

    def split(size: int) -> Split | range:
        if facts.crop:
            return range(size)
        return Split(
            jax.ShapeDtypeStruct((size, *facts.image_shape), np.uint8),
            jax.ShapeDtypeStruct((size,), np.int32),
        )

    return Dataset(
        name=name,
        train=split(max(least, sum(n for part, n in facts.sizes.items() if part != "test"))),
        test=split(facts.sizes["test"]),
        validation=None,
        image_shape=facts.image_shape,
        num_classes=facts.num_classes,
        mean=facts.mean,
        std=facts.std,
        crop=_crop(facts),
    )


def image_shape(name: str, image_size: int) -> tuple[int, int, int]:
    """Height, width and channels of a set's images. Raises InputError for an unknown name."""
    return (image_size, image_size, 3) if name == FOLDER else _facts(name).image_shape


def _crop(facts: Facts) -> pictures.CentralCrop:
    side = min(facts.image_shape[:2])
    return facts.crop or pictures.CentralCrop(side, side, "bicubic")


def _facts_of(tree: folders.Tree, image_size: int) -> Facts:
    """Anybody's pictures are normalised as ImageNet's are, for networks that learnt from those."""
    return dataclasses.replace(
        FACTS["imagenet"],
        image_shape=(image_size, image_size, 3),
        crop=pictures.CentralCrop(image_size, image_size, "bicubic"),
        num_classes=len(tree.classes),
        sizes={part: sum(map(len, found.values())) for part, found in tree.parts.items()},
        classes=tree.classes,
    )


def _facts(name: str) -> Facts:
    if name not in FACTS:
        raise InputError(f"there is no data set {name!r}: {suggest(name, NAMES)}")
    return FACTS[name]


def _read(
    name: str, facts: Facts, directory: str | None, tree: folders.Tree | None
) -> dict[str, Split | Pictures]:
    """The parts named in `facts.sizes`, from wherever the set lies."""
    if name == "digits":
        return _read_digits()
    if _is_synthetic(name):
        return _make_synthetic(facts)
    folder = _directory(name, directory)
    if name == "imagenet":
        return imagenet.find(folder)
    if tree is not None:
        label_of = {name: label for label, name in enumerate(tree.classes)}
        return {
            part: folders.pieces(tree.folder, found, label_of).in_stored_order(part)
            for part, found in tree.parts.items()
        }
    if copy := tfds_copy.find(folder, "svhn_cropped" if name == "svhn" else name):
        return {part: _checked(facts, tfds_copy.read(copy, part)) for part in facts.sizes}
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
        layout = imagenet.LAYOUT if name == "imagenet" else folders.LAYOUT
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


def _is_synthetic(name: str) -> bool:
    return name.startswith("synthetic")


def _make_synthetic(facts: Facts) -> dict[str, Split]:
    """Makes noise around one coarse random pattern per class, which a small network soon learns.

    The test images and the first 512 training images do not depend on the number of images.
    """
    random = np.random.RandomState(0)  # unlike Generator's, its numbers never change
    patterns = random.randint(64, 192, (facts.num_classes, 4, 4, 3))
    cell = facts.image_shape[0] // 4

    def make(size: int) -> Split:
        labels = random.permutation(np.arange(size, dtype=np.int32) % facts.num_classes)
        images = random.randint(-80, 81, (size, *facts.image_shape))
        images += patterns[labels].repeat(cell, 1).repeat(cell, 2)
        return Split(images.clip(0, 255).astype(np.uint8), labels)

    train, test = [make(_SYNTHETIC_PIECE)], make(facts.sizes["test"])
    for start in range(_SYNTHETIC_PIECE, facts.sizes["train"], _SYNTHETIC_PIECE):
        train.append(make(min(_SYNTHETIC_PIECE, facts.sizes["train"] - start)))
    return {"train": _concatenate(train), "test": test}


def _checked(facts: Facts, piece: archives.Piece) -> Split:
    """A piece that fits `facts`, or an InputError that names its source."""
    source, images, labels = piece
    if images.shape[1:] != facts.image_shape or images.dtype != np.uint8:
        raise InputError(
            f"{source} has {images.dtype} images of shape {images.shape[1:]} instead of "
            f"uint8 {facts.image_shape}: it is another set."
        )
    if len(images) != len(labels) or len(images) == 0:
        raise InputError(
            f"{source} has {counted(len(images), 'image')} and {counted(len(labels), 'label')}: "
            "replace it."
        )
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


def _between(part: Split | Pictures, start: int, stop: int) -> Split | Pictures:
    if isinstance(part, Split):
        return Split(part.images[start:stop], part.labels[start:stop])
    return Range(part, start, stop)


def _hold_out_last(
    train: Split | Pictures, holdout: int
) -> tuple[Split | Pictures, Split | Pictures | None]:
    """Training images without the last `holdout`, and those."""
    if holdout == 0:
        return train, None
    count = len(train) - holdout
    if count <= 0:
        raise InputError(
            f"Cannot hold out {holdout:,} of {counted(len(train), 'training image')}: "
            "lower data.holdout."
        )
    return _between(train, 0, count), _between(train, count, len(train))


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
                    f"Cannot hold out {per_class:,} of {counted(len(members), 'image')} of class "
                    f"{label} in svhn's {part!r} part: lower data.holdout."
                )
            is_held[random.permutation(members)[:per_class]] = True
        kept.append(Split(split.images[~is_held], split.labels[~is_held]))
        held.append(Split(split.images[is_held], split.labels[is_held]))
    return _concatenate(kept), _concatenate(held)
