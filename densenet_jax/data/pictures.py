"""Decodes pictures by one rule for all uses, and crops their centre.

Pixels are used as Pillow decodes them. The EXIF orientation is ignored, as in torchvision's loaders
and in the papers' Torch code. So training, evaluation and prediction see the same pixels, from a
path, a PIL picture or an array. (Pillow itself applies the orientation of TIFF files.)
"""

import dataclasses
import functools
import io
import logging
import pathlib
import threading

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from densenet_jax.data.archives import naming_file
from densenet_jax.data.encoded import MAX_PICTURE_BYTES
from densenet_jax.errors import InputError, UnsupportedFile
from densenet_jax.files import read_regular

SIDE = 224  # Side of the images of networks for ImageNet, in pixels.
# Pixels of the largest picture that is decoded by default, as in Pillow. A pixel takes 3 bytes.
MAX_PIXELS = 178_956_970
# Pixels of the largest resized picture, unless the stored picture has as many. A pixel takes 4
# bytes, and 8 for ten crops. With a short side of 256 pixels, the ratio of sides is at most 1024.
MAX_ENLARGED_PIXELS = 2**26
# Scans of a progressive JPEG of `max_pixels` pixels; a smaller picture may have more in proportion.
# Decoding a scan takes time in proportion to all pixels. Encoders write about 10 scans.
MAX_SCANS = 20
MAX_SIDE = 4096  # Largest crop and short side, in pixels. A larger batch takes gigabytes.

# Formats of photographs, by Pillow's names. Formats such as EPS may start other programs.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
# Largest mean and standard deviation of pixel values, and least deviation: the quotient must be an
# ordinary float32.
_LARGEST_PIXEL, _LEAST_STD = 1e9, 1e-6
_TIFF_TILE_SIDES = 322, 323  # The tags of width and height.
_DARK_16_BITS = 2**12  # Values of 12-bit cameras are below this limit.
_opening = threading.Lock()


@functools.cache
def _formats() -> tuple[str, ...]:
    """Returns the formats in _FORMATS that this build of Pillow reads, in its order of trying."""
    Image.init()
    return tuple(name for name in Image.ID if name in _FORMATS)


@functools.cache
def endings() -> frozenset[str]:
    """Returns the file name endings of readable pictures, such as ".webp"."""
    readable = (*_formats(), "MPO")  # The JPEG reader opens MPO files.
    return frozenset(ending for ending, name in Image.EXTENSION.items() if name in readable)


@dataclasses.dataclass(frozen=True)
class CentralCrop:
    """A crop `[size, size, channels]` from the centre of a picture, exactly as in torchvision.

    Attributes:
      resize: length of the picture's short side before the crop, in pixels.
      size: side of the crop, in pixels.
      interpolation: Pillow's interpolation, "bilinear" or "bicubic".
    """

    resize: int = 256
    size: int = SIDE
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.interpolation not in ("bilinear", "bicubic"):
            raise InputError(
                f"interpolation is {self.interpolation!r}: use 'bilinear' or 'bicubic'"
            )
        for name in ("resize", "size"):
            if type(getattr(self, name)) is not int:
                raise InputError(f"{name} is {getattr(self, name)!r:.200}: it must be an integer")
        if not 1 <= self.size <= self.resize:
            raise InputError(
                f"the crop has {self.size} pixels, but the short side has {self.resize}: use a "
                f"crop of 1 to {self.resize} pixels"
            )
        if self.resize > MAX_SIDE:
            raise InputError(
                f"the short side of {self.resize} pixels is more than the limit of {MAX_SIDE}: use "
                "a smaller one"
            )

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """Returns the crop as uint8, with one channel for a grey picture and three otherwise."""
        resized = self._resized(picture)
        return self._cut(resized, *self._middle(resized))

    def ten(self, picture: Image.Image) -> np.ndarray:
        """Returns crops `[10, size, size, channels]` of corners and centre, plain and mirrored."""
        resized = self._resized(picture)
        right, bottom = (side - self.size for side in resized.size)
        places = [(0, 0), (right, 0), (0, bottom), (right, bottom), self._middle(resized)]
        both = resized, ImageOps.mirror(resized)
        return np.stack([self._cut(picture, *place) for picture in both for place in places])

    def _resized(self, picture: Image.Image) -> Image.Image:
        short = min(picture.size)
        size = [int(self.resize * side / short) for side in picture.size]
        if size[0] * size[1] > max(MAX_ENLARGED_PIXELS, picture.width * picture.height):
            raise UnsupportedFile(
                f"has {picture.width} x {picture.height} pixels, which would become {size[0]:,} x "
                f"{size[1]:,} with a short side of {self.resize}: shorten its long side"
            )
        return picture.resize(size, Image.Resampling[self.interpolation.upper()])

    def _middle(self, resized: Image.Image) -> tuple[int, int]:
        left, top = (round((side - self.size) / 2) for side in resized.size)
        return left, top

    def _cut(self, resized: Image.Image, left: int, top: int) -> np.ndarray:
        cropped = resized.crop((left, top, left + self.size, top + self.size))
        return np.asarray(cropped).reshape(self.size, self.size, -1)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The crop and the normalisation of pictures. The default is torchvision's for ImageNet.

    Attributes:
      crop: cuts the image out of the picture.
      mean, std: one value for each channel, on a scale of 0 to 255. The mean is subtracted, and the
        difference is divided by std.
    """

    crop: CentralCrop = dataclasses.field(default_factory=CentralCrop)
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)

    def __post_init__(self) -> None:
        for name, least in (("mean", -_LARGEST_PIXEL), ("std", _LEAST_STD)):
            values = getattr(self, name)
            numbers = isinstance(values, tuple) and values and all(map(_is_number, values))
            if not numbers or not all(least <= value <= _LARGEST_PIXEL for value in values):
                raise InputError(
                    f"{name} is {values!r:.200}: it must be a number from {least:g} to "
                    f"{_LARGEST_PIXEL:g} for each channel"
                )
        if len(self.mean) != len(self.std):
            raise InputError(
                f"mean has {len(self.mean)} values and std {len(self.std)}: give one of each for "
                "each channel"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


TORCHVISION = Preprocessing()


def load(path: pathlib.Path, mode: str = "RGB", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads the picture at `path` in three colours (`RGB`) or in grey (`L`).

    Reads only the first frame of an animation. Raises InputError if the picture is missing,
    damaged, not a regular file, or beyond a limit: `max_pixels`, MAX_PICTURE_BYTES, MAX_SCANS.
    """
    with naming_file(path):
        return decode(read_regular(path, MAX_PICTURE_BYTES), max_pixels, mode)


def decode(data: bytes, max_pixels: int = MAX_PIXELS, mode: str = "RGB") -> Image.Image:
    """Decodes the bytes of a picture file.

    Raises UnsupportedFile for more than `max_pixels` pixels or pixels of an unknown range, and
    Pillow's errors for a damaged file.
    """
    with open_lazily(data) as picture:
        check_pixels(*picture.size, max_pixels)
        check_scans(data, picture.width * picture.height, max_pixels)
        _check_tiles(picture, max_pixels)
        return convert(picture, mode)


def open_lazily(data: bytes) -> Image.Image:
    """Reads only the header of a picture, of any size. Raises ValueError for an unknown format."""
    with _opening:  # Pillow's limit is global, and would warn before `max_pixels` is checked.
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


def check_scans(data: bytes, pixels: int, max_pixels: int) -> None:
    """Raises UnsupportedFile if decoding all scans of a JPEG would take minutes.

    The marker of a scan cannot occur in compressed pixels. So its count is at least the number of
    scans.
    """
    scans = data.count(b"\xff\xda") if data.startswith(b"\xff\xd8") else 0
    if scans * pixels > MAX_SCANS * max_pixels:
        raise UnsupportedFile(
            f"has {scans:,} JPEG scans of {pixels:,} pixels, more than the limit of "
            f"{MAX_SCANS * max_pixels // pixels:,} for this size: save it again"
        )


def _check_tiles(picture: Image.Image, max_pixels: int) -> None:
    """Raises UnsupportedFile if one tile of a TIFF has more than `max_pixels` pixels."""
    # Imported earlier, Pillow would try this format before others.
    from PIL.TiffImagePlugin import TiffImageFile

    if isinstance(picture, TiffImageFile):
        width, height = (picture.tag_v2.get(tag, 0) for tag in _TIFF_TILE_SIDES)
        if width * height > max_pixels:
            raise UnsupportedFile(
                f"has TIFF tiles of {width:,} x {height:,} pixels, more than the limit of "
                f"{max_pixels:,}: save it again"
            )


def convert(picture: Image.Image, mode: str) -> Image.Image:
    """Returns `picture` with 8 bits per channel, in three colours (`RGB`) or in grey (`L`).

    Raises UnsupportedFile if the range of its pixel values is not known.
    """
    if picture.mode == "F":
        raise UnsupportedFile("has floating-point pixels: convert it to 8 or 16 bits per channel")
    if picture.mode.startswith("I"):  # Pillow would keep the low 8 of 16 bits.
        picture = Image.fromarray(_high_bits(np.asarray(picture)))
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # Avoids a warning; the colours are the same.
    return picture.convert(mode)


def _high_bits(values: np.ndarray) -> np.ndarray:
    """Returns the high 8 of 16 bits. Raises UnsupportedFile if `values` have another range."""
    low, high = values.min(), values.max()
    if low < 0 or high >= 2**16:
        raise UnsupportedFile(
            f"has pixels from {low} to {high}, beyond 16 bits: convert it to 8 bits per channel"
        )
    if 0 < high < 2**8:
        raise UnsupportedFile(
            f"has pixels of 16 or 32 bits with values up to {high}, which are all black: convert "
            "it to 8 bits per channel"
        )
    if 0 < high < _DARK_16_BITS:
        _warn_of_dark_pictures()
    return (values >> 8).astype(np.uint8)


@functools.cache
def _warn_of_dark_pictures() -> None:
    """Logs a warning, once per process."""
    logging.getLogger("densenet_jax").warning(
        "16-bit pictures with values below %d are read as very dark, because white is 65,535: "
        "rescale them if they have 12 bits",
        _DARK_16_BITS,
    )


def from_array(array: np.ndarray) -> Image.Image:
    """Returns the picture of an array `[H, W]` or `[H, W, channels]` of uint8, uint16 or floats.

    Keeps the high 8 bits of uint16, as for a 16-bit file. Floats must lie within 0 to 1; they are
    rounded to 8 bits. Raises UnsupportedFile for another array.
    """
    channels = array.shape[2] if array.ndim == 3 else 1
    fits = array.ndim in (2, 3) and channels in (1, 3, 4) and array.size
    if fits and np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):
            raise UnsupportedFile(
                f"is a {array.dtype} array with values from {array.min():g} to {array.max():g}: "
                "scale floats to 0 to 1"
            )
        array = np.rint(255 * array).astype(np.uint8)
    if array.dtype not in (np.uint8, np.uint16) or not fits:
        raise UnsupportedFile(
            f"is a {array.dtype} array of shape {array.shape}: give uint8 (0 to 255), uint16 or "
            "floats (0 to 1) of shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
        )
    if array.dtype == np.uint16:
        array = _high_bits(array)
    return Image.fromarray(array.reshape(array.shape[:2]) if channels == 1 else array)
