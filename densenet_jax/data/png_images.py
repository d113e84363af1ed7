"""Decodes the images of published sets from PNG."""

import numpy as np

from densenet_jax.data import pictures
from densenet_jax.errors import UnsupportedFile


def decode(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Returns the uint8 image `[H, W, C]` in a PNG file.

    Raises UnsupportedFile for another format, another size, or colours in a grey set. Lossy formats
    are refused, because their pixels differ from the published ones.
    """
    with pictures.open_lazily(data) as picture:
        if picture.format != "PNG":
            raise UnsupportedFile(
                f"is a {picture.format}, whose pixels may differ from the published ones: use a "
                'copy in PNG, or set data.name to "folder"'
            )
        if picture.size != (shape[1], shape[0]):
            raise UnsupportedFile(
                f"has {picture.width} x {picture.height} pixels instead of {shape[1]} x "
                f"{shape[0]}: it belongs to another set"
            )
    image = np.asarray(pictures.decode(data))
    if shape[2] == 3:
        return image
    if (image != image[..., :1]).any():
        raise UnsupportedFile("has colours, but the set is grey: it belongs to another set")
    return image[..., :1]
