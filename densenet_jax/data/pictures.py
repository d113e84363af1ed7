"""Reads pictures from a tree of folders, one for each class: `train/CLASS/*` and `val/CLASS/*`.

As in fb.resnet.torch, and in what most copies of ImageNet look like.
"""

import pathlib

import numpy as np
import psutil
from PIL import Image

from densenet_jax.data.archives import Piece, naming
from densenet_jax.errors import InputError

RESIZED, SIDE = 256, 224  # Of the short side before cropping, and of the crop, in pixels.
LAYOUT = "a folder that holds train and val, each with a folder of pictures for each class"
_ENDINGS = (".jpeg", ".jpg", ".png")
_FOLDERS = {"train": "train", "test": "val"}


def read(folder: pathlib.Path) -> dict[str, list[Piece]]:
    """Both parts, "train" and "test", held in memory: the centre of each picture.

    Classes are numbered in the alphabetical order of the folders in `train`.

    Raises:
      InputError: missing folders, damaged pictures, or more of them than memory holds.
    """
    files = {part: _list(folder / name) for part, name in _FOLDERS.items()}
    _check_memory(folder, sum(len(paths) for paths in files.values()))
    classes = sorted({path.parent.name for path in files["train"]})
    numbers = {name: number for number, name in enumerate(classes)}
    pieces = {}
    for part, paths in files.items():
        for path in paths:
            if path.parent.name not in numbers:
                raise InputError(f"{path.parent} is of a class that {folder / 'train'} has not.")
        labels = np.array([numbers[path.parent.name] for path in paths])
        images = np.stack([central_crop(path) for path in paths])
        pieces[part] = [Piece(str(folder / _FOLDERS[part]), images, labels)]
    return pieces


def central_crop(path: pathlib.Path) -> np.ndarray:
    """uint8 `[SIDE, SIDE, 3]`: the centre, after resizing the short side to RESIZED (bicubic)."""
    with naming(path), Image.open(path) as picture:
        scale = RESIZED / min(picture.size)
        size = [max(RESIZED, round(scale * side)) for side in picture.size]
        resized = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        left, top = ((side - SIDE) // 2 for side in size)
        return np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)))


def _list(folder: pathlib.Path) -> list[pathlib.Path]:
    files = [path for path in sorted(folder.glob("*/*")) if path.suffix.lower() in _ENDINGS]
    if not files:
        raise InputError(f"Missing {folder}/CLASS/*.JPEG: set data.directory to {LAYOUT}.")
    return files


def _check_memory(folder: pathlib.Path, pictures: int) -> None:
    needed, available = pictures * SIDE * SIDE * 3, psutil.virtual_memory().available
    if needed > available / 2:
        raise InputError(
            f"{folder} has {pictures:,} pictures, which take {needed / 1e9:,.0f} GB, but "
            f"{available / 1e9:,.0f} GB are free and half of them may be used: use fewer pictures."
        )
