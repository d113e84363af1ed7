"""Reads published sets that fit in memory: their authors' files, copies for TFDS, and others."""

import pathlib
import shlex
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from densenet_jax.data import other_forms, places, tfds_copy
from densenet_jax.data.archives import Piece, naming_file
from densenet_jax.data.dataset import Part, Split, concatenate
from densenet_jax.data.facts import FACTS, Facts
from densenet_jax.data.reader import Found, Reader, Request, hold_out_last
from densenet_jax.errors import InputError, counted


def published_reader(
    name: str,
    origin: str,
    read_files: Callable[[pathlib.Path], dict[str, list[Piece]]],
    tfds_name: str | None = None,
    packaged_directory: str | None = None,
    hold_out: Callable[[Mapping[str, Part], int], tuple[Part, Part | None]] = hold_out_last,
    holdout_multiple: int = 1,
) -> Reader:
    """Returns the reader of a published set.

    A copy for TFDS takes precedence over the authors' files, and these over `other_forms`.

    Args:
      name: the name of the set in FACTS.
      origin: where the authors publish their files, for messages.
      read_files: reads the authors' files in a directory; returns the pieces of each part in order.
      tfds_name: the name of the set in TensorFlow Datasets; None: `name`.
      packaged_directory: where a package of the operating system installs the set. The set is
        read from there if `launch.fetch` has not stored it.
      hold_out, holdout_multiple: see Reader.
    """
    facts = FACTS[name]

    def read(request: Request) -> Found:
        if copy := tfds_copy.find(request.directory, tfds_name or name):
            parts = {
                part: _checked(facts, tfds_copy.read(copy, part, facts)) for part in facts.sizes
            }
            return Found(facts, parts)
        try:
            pieces = read_files(request.directory)
        except OSError as error:
            if others := other_forms.read(name, request.directory):
                return Found(facts, {part: _checked(facts, others[part]) for part in facts.sizes})
            out = "" if request.is_default else f" --out {shlex.quote(str(request.directory))}"
            raise InputError(
                f"missing {error.filename}: run `python -m launch.fetch {name}{out}`, or set "
                f"data.directory to {files}"
            ) from error
        return Found(facts, {part: _joined(facts, pieces[part]) for part in facts.sizes})

    def default_directory() -> pathlib.Path | None:
        fetched = places.set_directory(name)
        if packaged_directory and not (fetched and _has_files(fetched)):
            packaged = pathlib.Path(packaged_directory)
            return packaged if packaged.is_dir() else fetched or packaged
        return fetched

    files = (
        f"a directory with its files from {origin}, or with a copy in PNG, in parquet or prepared "
        "by TFDS"
    )
    return Reader(
        read, files, default_directory, hold_out, holdout_multiple, tfds_name=tfds_name or name
    )


def _has_files(directory: pathlib.Path) -> bool:
    """Returns whether a directory has files other than those of an unfinished download."""
    if not directory.is_dir():
        return False
    with naming_file(directory):
        return any(path.suffix != places.UNFINISHED for path in directory.iterdir())


def _joined(facts: Facts, pieces: Sequence[Piece]) -> Split:
    return concatenate([_checked(facts, piece) for piece in pieces])


def _checked(facts: Facts, piece: Piece) -> Split:
    """Returns a piece as a split. Raises InputError if it does not fit `facts`."""
    source, images, labels = piece
    if images.shape[1:] != facts.image_shape or images.dtype != np.uint8:
        raise InputError(
            f"{source} has {images.dtype} images of shape {images.shape[1:]} instead of "
            f"uint8 {facts.image_shape}: it belongs to another set"
        )
    if len(images) != len(labels) or len(images) == 0:
        raise InputError(
            f"{source} has {counted(len(images), 'image')} and {counted(len(labels), 'label')}: "
            "replace it"
        )
    if labels.min() < 0 or labels.max() >= facts.num_classes:
        raise InputError(
            f"{source} has labels from {labels.min()} to {labels.max()} instead of 0 to "
            f"{facts.num_classes - 1}: it is damaged or belongs to another set"
        )
    return Split(images, labels.astype(np.int32))
