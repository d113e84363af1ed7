"""The interface between `sources.load` and the readers of the data sets."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from densenet_jax.data.dataset import Part, between
from densenet_jax.data.facts import Facts
from densenet_jax.errors import InputError, counted


class Request(NamedTuple):
    """The arguments of a reader.

    Attributes:
      directory: where the files are; unused by a set that needs no files.
      train_images: least number of training images, for sets that are computed.
      image_size: side of the images, for pictures of any size.
      is_default: whether `directory` is the default directory of the reader.
      labels: CSV file with several labels for each picture, for "folder"; None: class directories.
    """

    directory: pathlib.Path
    train_images: int
    image_size: int
    is_default: bool = False
    labels: pathlib.Path | None = None


class Found(NamedTuple):
    """The result of a reader: facts about the set, and the parts that `facts.sizes` names."""

    facts: Facts
    parts: Mapping[str, Part]


def hold_out_last(parts: Mapping[str, Part], holdout: int) -> tuple[Part, Part | None]:
    """Divides the training images into all but the last `holdout`, and the last `holdout`.

    The second is None if `holdout` is 0. Raises InputError if no training images remain.
    """
    train = parts["train"]
    if holdout == 0:
        return train, None
    count = len(train) - holdout
    if count <= 0:
        raise InputError(
            f"cannot hold out {holdout:,} of {counted(len(train), 'training image')}: "
            "lower data.holdout"
        )
    return between(train, 0, count), between(train, count, len(train))


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader of one set, for `sources.load`.

    Attributes:
      read: returns the facts and the parts of the set.
      needs: what `data.directory` must be, for messages; empty for a set that needs no files.
      default_directory: returns where the set is if `data.directory` is not given, or None.
      hold_out: divides the training images into those for training and those for validation.
      holdout_multiple: `data.holdout` must be a multiple of this number.
      tfds_name: the name of the set in TensorFlow Datasets, whose registry lists the files that
        `launch.fetch` downloads; empty for a set that cannot be downloaded.
    """

    read: Callable[[Request], Found]
    needs: str = ""
    default_directory: Callable[[], pathlib.Path | None] = lambda: None
    hold_out: Callable[[Mapping[str, Part], int], tuple[Part, Part | None]] = hold_out_last
    holdout_multiple: int = 1
    tfds_name: str = ""
