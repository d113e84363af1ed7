"""A data set and its splits, and the operations on splits that readers share."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from densenet_jax.data.encoded import Pictures, Range, Selection
from densenet_jax.data.pictures import CentralCrop

# Label that is not known, in a set with several labels per example, which are 1 or 0 otherwise.
UNKNOWN = -1


@dataclasses.dataclass(frozen=True)
class Split:
    """A split in memory: images uint8 `[N, H, W, C]`, and labels int32 `[N]` or `[N, labels]`.

    Preprocessing makes the images float32.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


Part = Split | Pictures


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set with its splits, in memory or as pictures in files.

    Attributes:
      name: the name in `sources.READERS`.
      train, test, validation: the splits; `validation` is None unless images are held out.
      image_shape: height, width and channels of an image as a network sees it.
      num_classes: number of classes.
      mean, std: mean and standard deviation per channel, on the scale of the images.
      crop: the crop of test pictures, and of other pictures to classify.
      white: largest value of a pixel.
      classes: names of the classes in the order of labels, if known.
      official: whether the parts have as many images as the published set.
      multilabel: whether each example has several labels, one for each of `classes`.
    """

    name: str
    train: Part
    test: Part
    validation: Part | None
    image_shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: CentralCrop
    white: float = 255
    classes: tuple[str, ...] | None = None
    official: bool = True
    multilabel: bool = False

    @property
    def label_shape(self) -> tuple[int, ...]:
        """The shape of the labels of one example."""
        return (self.num_classes,) if self.multilabel else ()

    @property
    def streamed(self) -> bool:
        return not isinstance(self.train, Split)


class Placeholder(np.ndarray):
    """An array of known shape and type whose content is never used."""


def placeholder(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Returns a Placeholder. All elements share one zero, so it takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape).view(Placeholder)


def concatenate(splits: Sequence[Split]) -> Split:
    """Joins splits in their order."""
    if len(splits) == 1:
        return splits[0]  # Avoids a copy.
    return Split(
        np.concatenate([split.images for split in splits]),
        np.concatenate([split.labels for split in splits]),
    )


def between(part: Part, start: int, stop: int) -> Part:
    """Returns the images from `start` up to, not including, `stop`."""
    if isinstance(part, Split):
        return Split(part.images[start:stop], part.labels[start:stop])
    return Range(part, start, stop)


def chosen(part: Part, positions: np.ndarray) -> Part:
    """Returns the images at `positions`, in that order."""
    if isinstance(part, Split):
        return Split(part.images[positions], part.labels[positions])
    return Selection(part, positions)
