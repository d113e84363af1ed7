"""Draws two pictures after each random change of training images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from densenet_jax.data.augmentation import Augmentation
from densenet_jax.data.batches import Batch

_SIDE, _COLUMNS, _GAP, _LABEL = 88, 6, 4, 150  # Pixels, except the columns.
# Parts of scikit-learn's photographs, whose licence is CC BY 2.0: left, top and side.
_PARTS = {"china.jpg": (80, 40, 340), "flower.jpg": (190, 60, 330)}

Row = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def photograph(name: str) -> np.ndarray:
    """Returns the part of a photograph that rows show: uint8 `[H, W, 3]`."""
    from sklearn.datasets import load_sample_image  # Importing it sets environment variables.

    left, top, side = _PARTS[name]
    part = Image.fromarray(load_sample_image(name)[top : top + side, left : left + side])
    return np.asarray(part.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))


def _augmented(**settings: Any) -> Row:
    """Returns a row that changes images by an `Augmentation` with these settings."""
    off: dict[str, Any] = {"crop_padding": 0, "padding_mode": "zeros", "flip": False}
    off |= {"color_jitter": 0.0, "lighting": 0.0, "white": 255.0}

    def row(images: jax.Array, indices: jax.Array, key: jax.Array) -> jax.Array:
        mean, std = (f(np.asarray(images), axis=(0, 1, 2)) for f in (np.mean, np.std))
        changes = Augmentation(**off | {"mean": tuple(mean.tolist())} | settings)

        def changed(images: jax.Array, indices: jax.Array, key: jax.Array) -> jax.Array:
            normalised = (changes.of_colors(images, indices, key) - mean) / std
            placed = changes.of_place(normalised, indices, key)
            batch = changes.of_batch(Batch(placed, indices, jnp.ones(len(indices))), indices, key)
            return batch.images * std + mean

        return jax.jit(changed)(images, indices, key)

    return row


# The label of each row, and its function of photographs `[N, H, W, 3]` from 0 to 255, the indices
# of the examples and a key. The result has the same shape and scale.
ROWS: dict[str, Row] = {
    "crop and flip\ncrop_padding=11": _augmented(crop_padding=11, flip=True),
    "colour jitter\ncolor_jitter=0.4\nlighting=0.1": _augmented(color_jitter=0.4, lighting=0.1),
    "TrivialAugment\ntrivial_augment=True": _augmented(trivial=True),
    "RandAugment\nrandom_augment=9": _augmented(random=9.0),
    "mixup\nmixup=0.8": _augmented(mixup=0.8),
    "cutmix\ncutmix=1": _augmented(cutmix=1.0),
    "random erasing\nrandom_erasing=0.5": _augmented(random_erasing=0.5),
}


def rows() -> dict[str, np.ndarray]:
    """Returns the images uint8 `[N, H, W, 3]` of each row."""
    pair = [photograph(name) for name in _PARTS]  # Mixing needs different neighbours.
    images = jnp.asarray(np.stack(pair * (_COLUMNS // 2)), jnp.float32)
    indices, key = jnp.arange(_COLUMNS), jax.random.key(0)
    return {
        label: np.asarray(jnp.clip(row(images, indices, key), 0, 255)).round().astype(np.uint8)
        for label, row in ROWS.items()
    }


def draw(path: Path) -> None:
    """Draws all rows, below each other, to the PNG file `path`."""
    found = rows()
    size = _LABEL + _COLUMNS * (_SIDE + _GAP) - _GAP, len(found) * (_SIDE + _GAP) - _GAP
    sheet = Image.new("RGB", size, "white")
    writer, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, (label, images) in enumerate(found.items()):
        top = i * (_SIDE + _GAP)
        writer.multiline_text((0, top + _SIDE / 2), label, "black", font, anchor="lm")
        for j, image in enumerate(images):
            sheet.paste(Image.fromarray(image), (_LABEL + j * (_SIDE + _GAP), top))
    # A palette makes the file three times smaller.
    small = sheet.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
