"""Changes of images for TrivialAugment and RandAugment, inside jit.

An image passes three stages, of which at most one changes it: its positions are moved, it is
blended with another image, and its values are looked up in a table. So one program serves a whole
batch, whatever its images draw. Images hold whole numbers from 0 to 255, and the arithmetic is that
of Pillow and torchvision, whose rounding of 16 to 15 pixels is not followed.

| operations | amount |
|---|---|
| rotate | angle in radians |
| shear_x, shear_y | shift of each row or column over the shift of its neighbour, in pixels |
| translate_x, translate_y | pixels |
| brightness, color, contrast, sharpness | share of the image in a blend; 1 changes nothing |
| posterize | bits that are kept |
| solarize | value from which on values are inverted |
| solarize_add | number added to the values below 128 |
| identity, invert, autocontrast, equalize | not used |
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.ndimage import map_coordinates

MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("brightness", "color", "contrast", "sharpness")
TABLES = ("posterize", "solarize", "solarize_add", "invert", "autocontrast", "equalize")
OPERATIONS = ("identity", *MOVES, *BLENDS, *TABLES)

_GREY = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue.


def apply(
    image: jax.Array, kind: jax.Array, amount: jax.Array, fill: jax.Array, smooth: bool = False
) -> jax.Array:
    """Returns an image `[H, W, C]` of whole numbers from 0 to 255 after `OPERATIONS[kind]`.

    Args:
      image: float32, with 1 or 3 channels.
      amount: see the table above.
      fill: `[C]`, the colour of positions that a move takes from outside the image.
      smooth: whether moves interpolate between four positions; False takes the nearest one.
    """
    is_move, is_blend, is_table = (
        jnp.isin(kind, jnp.array([OPERATIONS.index(name) for name in names]))
        for names in (MOVES, BLENDS, TABLES)
    )
    image = jnp.where(is_move, _moved(image, kind, amount, fill, smooth), image)
    image = jnp.where(is_blend, _blended(image, kind, amount), image)
    return jnp.where(is_table, _looked_up(image, kind, amount), image)


def _is(kind: jax.Array, name: str) -> jax.Array:
    return kind == OPERATIONS.index(name)


def _moved(
    image: jax.Array, kind: jax.Array, amount: jax.Array, fill: jax.Array, smooth: bool
) -> jax.Array:
    """Shears about the corner, translates, or rotates about the centre."""
    height, width, _ = image.shape
    angle, shear_x, shear_y, shift_x, shift_y = (
        jnp.where(_is(kind, name), amount.astype(image.dtype), 0)
        for name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
    )
    center = jnp.where(_is(kind, "rotate"), jnp.array([width / 2, height / 2]), 0)
    x, y = (
        place + 0.5 - of_center
        for place, of_center in zip(
            jnp.meshgrid(jnp.arange(width), jnp.arange(height)), center, strict=True
        )
    )
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    from_x = cos * x + (shear_x - sin) * y + center[0] - shift_x - 0.5
    from_y = cos * y + (shear_y + sin) * x + center[1] - shift_y - 0.5
    row, column = jnp.round(from_y).astype(int), jnp.round(from_x).astype(int)
    is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    if smooth:
        sampled = jax.vmap(
            lambda channel: map_coordinates(channel, [from_y, from_x], 1, "nearest"), -1, -1
        )(image)
        taken = jnp.trunc(sampled)  # As in Pillow.
    else:
        taken = image[row, column]
    return jnp.where(is_inside[..., None], taken, fill)


def _blended(image: jax.Array, kind: jax.Array, factor: jax.Array) -> jax.Array:
    """Blends with black, with the grey image, with its mean, or with the blurred image."""
    grey = image
    if image.shape[-1] == 3:
        grey = jnp.trunc((image * jnp.array(_GREY)).sum(-1, keepdims=True))
    other = jnp.select(
        [_is(kind, "color"), _is(kind, "contrast"), _is(kind, "sharpness")],
        [jnp.broadcast_to(grey, image.shape), jnp.full_like(image, grey.mean()), _blurred(image)],
        jnp.zeros_like(image),
    )
    return jnp.trunc(jnp.clip(other + factor * (image - other), 0, 255))


def _blurred(image: jax.Array) -> jax.Array:
    """Averages each position, counted five times, with its eight neighbours; keeps the border."""
    if min(image.shape[:2]) <= 2:
        return image
    sums = lax.reduce_window(image, 0.0, lax.add, (3, 3, 1), (1, 1, 1), "VALID")
    inner = jnp.round((sums + 4 * image[1:-1, 1:-1]) / 13)
    return image.at[1:-1, 1:-1].set(inner)


def _looked_up(image: jax.Array, kind: jax.Array, amount: jax.Array) -> jax.Array:
    """Maps each value of a channel to the entry of the channel's table."""
    levels = image.astype(int)
    channels = jnp.arange(image.shape[-1])
    values = jnp.broadcast_to(jnp.arange(256.0), (image.shape[-1], 256))
    step = 2.0 ** (8 - amount)
    table = jnp.select(
        [_is(kind, name) for name in TABLES],
        [
            step * (values // step),
            jnp.where(values >= amount, 255 - values, values),
            jnp.where(values < 128, jnp.minimum(values + amount, 255), values),
            255 - values,
            _stretching(image),
            _equalizing(levels),
        ],
    )
    # XLA would otherwise compute the entry of the table anew for each pixel.
    return lax.optimization_barrier(table)[channels, levels]


def _stretching(image: jax.Array) -> jax.Array:
    """Returns tables `[C, 256]` that stretch each channel's values to 0 to 255."""
    low, high = image.min((0, 1))[:, None], image.max((0, 1))[:, None]
    values = jnp.arange(256.0)
    stretched = jnp.clip((values - low) * (255 / jnp.maximum(high - low, 1)), 0, 255)
    return jnp.where(high > low, jnp.trunc(stretched), values)


def _equalizing(levels: jax.Array) -> jax.Array:
    """Returns tables `[C, 256]` that make each channel's values about equally frequent."""
    height, width, channels = levels.shape
    # On a CPU one index is faster than two, and without the barrier XLA would count twice.
    places = (levels + 256 * jnp.arange(channels)).ravel()
    counts = lax.optimization_barrier(jnp.zeros(256 * channels, int).at[places].add(1))
    counts = counts.reshape(channels, 256)
    of_largest = jnp.take_along_axis(counts, levels.max((0, 1))[:, None], 1)
    step = (height * width - of_largest) // 255
    below = jnp.cumsum(counts, axis=1) - counts
    table = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, table, jnp.arange(256)).astype(jnp.float32)
