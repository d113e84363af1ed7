"""A picture in a file, and the middle of it."""

import dataclasses
import io
import pathlib
import warnings

import numpy as np
from PIL import Image, ImageOps

from densenet_jax.data.archives import naming
from densenet_jax.errors import InputError

SIDE = 224  # Of what ImageNet's networks see, in pixels.
ENDINGS = (".jpeg", ".jpg", ".png")


@dataclasses.dataclass(frozen=True)
class CentralCrop:
    """Makes `[size, size, channels]` of the middle of a picture; as torchvision does, by Pillow.

    Attributes:
      resize: length of the picture's short side before the middle is cut out, in pixels.
      size: of what is cut out, in pixels.
      interpolation: "bilinear" or "bicubic".
    """

    resize: int = 256
    size: int = SIDE
    interpolation: str = "bilinear"

    def __post_init__(self):
        if self.interpolation not in ("bilinear", "bicubic"):
            raise InputError(f"interpolation is {self.interpolation!r}: bilinear or bicubic.")
        if not 1 <= self.size <= self.resize:
            raise InputError(
                f"a crop of {self.size} pixels cannot be cut out of pictures whose short side is "
                f"{self.resize}: the crop must be at least 1 and at most that."
            )

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """uint8; a picture in grey has one channel, others three."""
        resized = self._resized(picture)
        return self._cut(resized, *self._middle(resized))

    def ten(self, picture: Image.Image) -> np.ndarray:
        """`[10, size, size, channels]`: corners and middle, and those of the mirror image."""
        resized = self._resized(picture)
        right, bottom = (side - self.size for side in resized.size)
        places = [(0, 0), (right, 0), (0, bottom), (right, bottom), self._middle(resized)]
        both = resized, ImageOps.mirror(resized)
        return np.stack([self._cut(picture, *place) for picture in both for place in places])

    def _resized(self, picture: Image.Image) -> Image.Image:
        short = min(picture.size)
        size = [int(self.resize * side / short) for side in picture.size]
        return picture.resize(size, Image.Resampling[self.interpolation.upper()])

    def _middle(self, resized: Image.Image) -> tuple[int, int]:
        left, top = (round((side - self.size) / 2) for side in resized.size)
        return left, top

    def _cut(self, resized: Image.Image, left: int, top: int) -> np.ndarray:
        cropped = resized.crop((left, top, left + self.size, top + self.size))
        return np.asarray(cropped).reshape(self.size, self.size, -1)


def load(path: pathlib.Path, mode: str = "RGB", upright: bool = False) -> Image.Image:
    """A picture in three colours (`RGB`) or in grey (`L`).

    Args:
      upright: turn it as its EXIF data say that the camera was held.

    Raises:
      InputError: it is missing, damaged, or too large to be one.
    """
    with naming(path):
        return _opened(path, mode, upright)


def decode(data: bytes) -> Image.Image:
    """As `load` does, from the bytes of a file. Raises whatever Pillow does if it cannot."""
    return _opened(io.BytesIO(data), "RGB", upright=False)


def _opened(source: pathlib.Path | io.BytesIO, mode: str, upright: bool) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(source) as picture:
            if upright:
                picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith("I"):  # 16 bits, of which Pillow would keep the low ones.
                picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
            return picture.convert(mode)
