"""Reads the cropped digits of SVHN from its MATLAB files."""

import math
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from densenet_jax.data.archives import Piece, check_digest, naming_file, whole_numbers
from densenet_jax.data.dataset import Part, Split, concatenate
from densenet_jax.data.published import published_reader
from densenet_jax.errors import InputError, UnsupportedFile, counted
from densenet_jax.files import check_regular, open_regular

MAX_IMAGES = 2**20  # Images in one file; the official "extra" has 531,131.
MAX_INFLATION = 20  # Ratio of the images to their file; 1.2 in the official files.


def _read_svhn(directory: pathlib.Path) -> dict[str, list[Piece]]:
    paths = {part: directory / f"{part}_32x32.mat" for part in ("train", "extra", "test")}
    for path in paths.values():
        check_regular(path)  # Before reading another file, which takes long.
    return {part: [_read_mat(path)] for part, path in paths.items()}


def _read_mat(path: pathlib.Path) -> Piece:
    """Reads a file of cropped digits: images X `[32, 32, 3, N]` and labels y `[N, 1]`.

    The digit 0 may have the label 10, as published, or 0, as in some copies.
    """
    import scipy.io

    size = path.stat().st_size
    with naming_file(path), open_regular(path) as file:
        check_digest(path.name, size, file)
        # Checks the list of variables before loading them, because listing takes no memory.
        try:
            kinds = {key: (shape, kind) for key, shape, kind in scipy.io.whosmat(file)}
        except NotImplementedError as error:
            raise UnsupportedFile(
                "is in MATLAB's format 7.3: load it in MATLAB and save it again with '-v7'"
            ) from error
        if file.tell() > size:  # SciPy seeks the next variable beyond the end.
            raise ValueError("it is cut short")
        if not {"X", "y"} <= kinds.keys():
            raise UnsupportedFile(f"has no X or no y, only {', '.join(kinds) or 'nothing'}")
        shape, kind = kinds["X"]
        if shape[:-1] != (32, 32, 3) or kind != "uint8" or shape[-1] > MAX_IMAGES:
            raise UnsupportedFile(
                f"has an X of {kind} {shape} instead of uint8 (32, 32, 3, N), N at most "
                f"{MAX_IMAGES:,}"
            )
        if 3072 * shape[-1] > MAX_INFLATION * size:
            raise UnsupportedFile(
                f"of {size:,} bytes unpacks to {3072 * shape[-1]:,}, more than {MAX_INFLATION} "
                "times as many: replace it"
            )
        shape, kind = kinds["y"]
        if math.prod(shape) > MAX_IMAGES:
            raise UnsupportedFile(f"has labels of shape {shape}, more than {MAX_IMAGES:,}")
        if not re.fullmatch(r"u?int\d+|single|double", kind):  # Logical values would load as uint8.
            raise UnsupportedFile(f"has labels of type {kind} instead of integers")
        content = scipy.io.loadmat(file, variable_names=["X", "y"])
        labels = whole_numbers(content["y"], "labels")
        if {0, 10} <= set(labels):
            raise UnsupportedFile(
                "has both labels 0 and 10 for the digit 0: change 0 to 10, or 10 to 0"
            )
        images = np.ascontiguousarray(np.moveaxis(content["X"], -1, 0))
        return Piece(str(path), images, np.where(labels == 10, 0, labels))


def _hold_out(parts: Mapping[str, Part], holdout: int) -> tuple[Split, Split | None]:
    """Divides "train" and "extra" into images for training and `holdout` images for validation.

    Two thirds of the held-out images come from "train" and one third from "extra", with equally
    many of each class. So 6,000 images are 400 per class from "train" and 200 from "extra", as in
    the code of the stochastic depth paper. The DenseNet paper gives only the sum. The random choice
    is always the same.
    """
    train, extra = parts["train"], parts["extra"]
    assert isinstance(train, Split) and isinstance(extra, Split)
    if holdout == 0:
        return concatenate([train, extra]), None
    random = np.random.RandomState(0)  # Unlike Generator's, its numbers never change.
    kept, held = [], []
    shares = (("train", train, holdout // 15), ("extra", extra, holdout // 30))
    for part, split, per_class in shares:
        is_held = np.zeros(len(split.labels), bool)
        for label in range(10):
            members = np.flatnonzero(split.labels == label)
            if per_class >= len(members):
                raise InputError(
                    f"cannot hold out {per_class:,} of {counted(len(members), 'image')} of class "
                    f"{label} in svhn's {part!r} part: lower data.holdout"
                )
            is_held[random.permutation(members)[:per_class]] = True
        kept.append(Split(split.images[~is_held], split.labels[~is_held]))
        held.append(Split(split.images[is_held], split.labels[is_held]))
    return concatenate(kept), concatenate(held)


SVHN = published_reader(
    "svhn",
    origin="http://ufldl.stanford.edu/housenumbers",
    read_files=_read_svhn,
    tfds_name="svhn_cropped",
    hold_out=_hold_out,
    holdout_multiple=30,  # Two images of each of the 10 classes from "train", and one from "extra".
)
