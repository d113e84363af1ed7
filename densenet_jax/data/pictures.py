"""Decodes pictures by one rule for all uses, and crops the centre out of them.

Pixels are taken as Pillow decodes them. The EXIF orientation that cameras write beside the pixels
is ignored, as it is by torchvision's loaders and by the papers' Torch code, so that training,
evaluation and prediction see the same pixels, whether they get a path, a PIL picture or an array.
(Of TIFF files, Pillow itself turns the pixels.)
"""

import dataclasses
import functools
import io
import logging
import pathlib
import threading

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from densenet_jax.data.archives import naming
from densenet_jax.errors import InputError, UnsupportedFile

SIDE = 224  # Side of the images of ImageNet's networks, in pixels.
# Pixels of the largest picture that is decoded by default, as in Pillow; 3 bytes each.
MAX_PIXELS = 178_956_970

# Formats of which Pillow reads no pixels, or only with the help of another program.
_WITHOUT_PIXELS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_DARK_16_BITS = 2**12  # The values of 12-bit cameras are below this.
_opening = threading.Lock()


@functools.cache
def _formats() -> tuple[str, ...]:
    """Returns Pillow's names of the formats that are read, in the order in which it tries them."""
    Image.init()
    return tuple(name for name in Image.ID if name not in _WITHOUT_PIXELS)


@functools.cache
def endings() -> frozenset[str]:
    """Returns the endings of picture files that are read, such as ".webp"."""
    readable = (*_formats(), "MPO")  # The JPEG reader opens MPO files.
    return frozenset(ending for ending, name in Image.EXTENSION.items() if name in readable)


@dataclasses.dataclass(frozen=True)
class CentralCrop:
    """Crops `[size, size, channels]` from the centre of a picture, exactly as torchvision does.

    Attributes:
      resize: length of the picture's short side before the crop, in pixels.
      size: side of the crop, in pixels.
      interpolation: "bilinear" or "bicubic", by Pillow.
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
        """Returns the crop as uint8; a picture in grey has one channel, others three."""
        resized = self._resized(picture)
        return self._cut(resized, *self._middle(resized))

    def ten(self, picture: Image.Image) -> np.ndarray:
        """Returns `[10, size, size, channels]`: corners and centre, also of the mirror image."""
        resized = self._resized(picture)
        right, bottom = (side - self.size for side in resized.size)
        places = [(0, 0), (right, 0), (0, bottom), (right, bottom), self._middle(resized)]
        both = resized, ImageOps.mirror(resized)
        return np.stack([self._cut(picture, *place) for picture in both for place in places])

    def _resized(self, picture: Image.Image) -> Image.Image:
        short = min(picture.size)
        size = [int(self.resize * side / short) for side in picture.size]
        if size[0] * size[1] > max(MAX_PIXELS, picture.width * picture.height):
            raise UnsupportedFile(
                f"has {picture.width} x {picture.height} pixels, which would become {size[0]:,} x "
                f"{size[1]:,} with a short side of {self.resize}: cut off its ends"
            )
        return picture.resize(size, Image.Resampling[self.interpolation.upper()])

    def _middle(self, resized: Image.Image) -> tuple[int, int]:
        left, top = (round((side - self.size) / 2) for side in resized.size)
        return left, top

    def _cut(self, resized: Image.Image, left: int, top: int) -> np.ndarray:
        cropped = resized.crop((left, top, left + self.size, top + self.size))
        return np.asarray(cropped).reshape(self.size, self.size, -1)


def load(path: pathlib.Path, mode: str = "RGB", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads the picture at `path` in three colours (`RGB`) or in grey (`L`).

    Raises InputError if it is missing, damaged, or has more than `max_pixels` pixels.
    """
    with naming(path):
        return decode(path.read_bytes(), max_pixels, mode)


def decode(data: bytes, max_pixels: int = MAX_PIXELS, mode: str = "RGB") -> Image.Image:
    """Decodes the bytes of a picture file.

    Raises UnsupportedFile for more than `max_pixels` pixels or pixels of an unknown range, and what
    Pillow raises for a damaged file.
    """
    with open_lazily(data) as picture:
        check_pixels(*picture.size, max_pixels)
        return convert(picture, mode)


def open_lazily(data: bytes) -> Image.Image:
    """Reads only the header of a picture, of any size. Raises ValueError for an unknown format."""
    with _opening:  # Pillow's own limit is a global, and it would warn before ours is checked.
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=_formats())
        except UnidentifiedImageError as error:
            raise ValueError("Pillow does not know its format") from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raises UnsupportedFile if a picture has no pixels, or more than `max_pixels`."""
    if width * height == 0:
        raise UnsupportedFile("has no pixels: remove it")
    if width * height > max_pixels:
        raise UnsupportedFile(
            f"has {width * height:,} pixels, more than the limit of {max_pixels:,}: make it "
            "smaller, or raise max_pixels (data.max_pixels in a config)"
        )


def convert(picture: Image.Image, mode: str) -> Image.Image:
    """Returns `picture` with 8 bits a channel, in three colours (`RGB`) or in grey (`L`).

    Raises UnsupportedFile if the range of its pixel values is not known.
    """
    if picture.mode == "F":
        raise UnsupportedFile("has floating-point pixels: convert it to 8 or 16 bits a channel")
    if picture.mode.startswith("I"):  # Pillow would keep the low 8 of 16 bits.
        picture = Image.fromarray(_high_bits(np.asarray(picture)))
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # Straight to RGB, Pillow warns; the colours are equal.
    return picture.convert(mode)


def _high_bits(values: np.ndarray) -> np.ndarray:
    """Returns the high 8 of 16 bits. Raises UnsupportedFile if `values` have another range."""
    low, high = values.min(), values.max()
    if low < 0 or high >= 2**16:
        raise UnsupportedFile(
            f"has pixels from {low} to {high}, beyond 16 bits: convert it to 8 bits a channel"
        )
    if 0 < high < 2**8:
        raise UnsupportedFile(
            f"has pixels of 16 or 32 bits that end at {high}, which would all be black: convert it "
            "to 8 bits a channel"
        )
    if 0 < high < _DARK_16_BITS:
        _warn_of_dark_pictures()
    return (values >> 8).astype(np.uint8)


@functools.cache
def _warn_of_dark_pictures() -> None:
    """Logs a warning, once in a process."""
    logging.getLogger("densenet_jax").warning(
        "16-bit pictures with values below %d are read as very dark ones, because white is 65,535: "
        "rescale them if they have 12 bits",
        _DARK_16_BITS,
    )


def from_array(array: np.ndarray) -> Image.Image:
    """Returns the picture in uint8 or uint16 `[H, W]` or `[H, W, channels]`.

    Of uint16 the high 8 bits are kept, as of a 16-bit file. Raises UnsupportedFile for another
    array.
    """
    channels = array.shape[2] if array.ndim == 3 else 1
    fits = array.ndim in (2, 3) and channels in (1, 3, 4) and array.size
    if array.dtype not in (np.uint8, np.uint16) or not fits:
        raise UnsupportedFile(
            f"is a {array.dtype} array of shape {array.shape}: give uint8 (0 to 255) or uint16 of "
            "shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
        )
    if array.dtype == np.uint16:
        array = _high_bits(array)
    return Image.fromarray(array.reshape(array.shape[:2]) if channels == 1 else array)
