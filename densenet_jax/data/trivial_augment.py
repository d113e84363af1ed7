"""TrivialAugment (Müller and Hutter, ICCV 2021): one random change to each image, inside jit.

The changes are the authors' "wide" ones, with torchvision's strengths and arithmetic (whose
rounding of 16 to 15 pixels is not followed). An image passes three stages, of which at most one
changes it: its positions are moved, it is blended with another image, and its values are looked up
in a table. So one program serves a whole batch, whatever its images draw.
"""

import jax
import jax.numpy as jnp
from jax import lax

MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("brightness", "color", "contrast", "sharpness")
TABLES = ("posterize", "solarize", "autocontrast", "equalize")
CHANGES = ("identity", *MOVES, *BLENDS, *TABLES)
STRENGTHS = 31  # Strengths are the numbers from 0 to 30.

_FARTHEST = 32  # Pixels.
_WIDEST = jnp.pi * 135 / 180
_GREY = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue.


def trivial_augment(
    images: jax.Array, indices: jax.Array, key: jax.Array, white: float = 255
) -> jax.Array:
    """Returns float32 images, each changed by one of `CHANGES` with a random strength and sign.

    Args:
      images: `[N, H, W, C]`, from 0 to `white`, with 1 or 3 channels.
      indices: `[N]`, indices of the examples.
      key: the key of this epoch.
      white: largest value of a pixel.
    """

    def one(image: jax.Array, index: jax.Array) -> jax.Array:
        kind_key, strength_key, sign_key = jax.random.split(jax.random.fold_in(key, index), 3)
        kind = jax.random.randint(kind_key, (), 0, len(CHANGES))
        strength = jax.random.randint(strength_key, (), 0, STRENGTHS)
        sign = jax.random.rademacher(sign_key, (), jnp.float32)
        return changed(image, kind, strength, sign)

    levels = jnp.round(images.astype(jnp.float32) * (255 / white))
    return (jax.vmap(one)(levels, indices) * (white / 255)).astype(jnp.float32)


def changed(image: jax.Array, kind: jax.Array, strength: jax.Array, sign: jax.Array) -> jax.Array:
    """Returns an image `[H, W, C]` of whole numbers from 0 to 255, changed by `CHANGES[kind]`.

    Args:
      strength: from 0 to 30.
      sign: 1 or -1, the direction of moves and blends.
    """
    share = strength / (STRENGTHS - 1)
    is_move, is_blend, is_table = (
        jnp.isin(kind, jnp.array([CHANGES.index(name) for name in names]))
        for names in (MOVES, BLENDS, TABLES)
    )
    image = jnp.where(is_move, _moved(image, kind, strength, sign), image)
    image = jnp.where(is_blend, _blended(image, kind, sign * share), image)
    return jnp.where(is_table, _looked_up(image, kind, share), image)


def _is(kind: jax.Array, name: str) -> jax.Array:
    return kind == CHANGES.index(name)


def _moved(image: jax.Array, kind: jax.Array, strength: jax.Array, sign: jax.Array) -> jax.Array:
    """Shears about the corner, translates, or rotates about the centre; fills with zeros."""
    height, width, _ = image.shape
    amount = sign * strength / (STRENGTHS - 1)
    pixels = sign * (_FARTHEST * strength // (STRENGTHS - 1))
    angle = jnp.where(_is(kind, "rotate"), _WIDEST * amount, 0)
    center = jnp.where(_is(kind, "rotate"), jnp.array([width / 2, height / 2]), 0)
    x, y = (
        place + 0.5 - of_center
        for place, of_center in zip(
            jnp.meshgrid(jnp.arange(width), jnp.arange(height)), center, strict=True
        )
    )
    shear_x, shear_y = (jnp.where(_is(kind, f"shear_{d}"), 0.99 * amount, 0) for d in "xy")
    shift_x, shift_y = (jnp.where(_is(kind, f"translate_{d}"), pixels, 0) for d in "xy")
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    from_x = cos * x + (shear_x - sin) * y + center[0] - shift_x - 0.5
    from_y = cos * y + (shear_y + sin) * x + center[1] - shift_y - 0.5
    row, column = jnp.round(from_y).astype(int), jnp.round(from_x).astype(int)
    is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return jnp.where(is_inside[..., None], image[row, column], 0)


def _blended(image: jax.Array, kind: jax.Array, amount: jax.Array) -> jax.Array:
    """Blends with black, with the grey image, with its mean, or with the blurred image."""
    grey = image
    if image.shape[-1] == 3:
        grey = jnp.trunc((image * jnp.array(_GREY)).sum(-1, keepdims=True))
    other = jnp.select(
        [_is(kind, "color"), _is(kind, "contrast"), _is(kind, "sharpness")],
        [jnp.broadcast_to(grey, image.shape), jnp.full_like(image, grey.mean()), _blurred(image)],
        jnp.zeros_like(image),
    )
    factor = 1 + 0.99 * amount
    return jnp.trunc(jnp.clip(other + factor * (image - other), 0, 255))


def _blurred(image: jax.Array) -> jax.Array:
    """Averages each position, counted five times, with its eight neighbours; keeps the border."""
    if min(image.shape[:2]) <= 2:
        return image
    sums = lax.reduce_window(image, 0.0, lax.add, (3, 3, 1), (1, 1, 1), "VALID")
    inner = jnp.round((sums + 4 * image[1:-1, 1:-1]) / 13)
    return image.at[1:-1, 1:-1].set(inner)


def _looked_up(image: jax.Array, kind: jax.Array, share: jax.Array) -> jax.Array:
    """Maps each value of a channel to the entry of the channel's table."""
    levels = image.astype(int)
    channels = jnp.arange(image.shape[-1])
    table = jnp.select(
        [_is(kind, "posterize"), _is(kind, "solarize"), _is(kind, "autocontrast")],
        [_posterizing(image, share), _solarizing(image, share), _stretching(image)],
        _equalizing(levels),
    )
    return table[channels, levels]


def _posterizing(image: jax.Array, share: jax.Array) -> jax.Array:
    """Returns tables `[C, 256]` that keep 8 to 2 bits."""
    step = 2.0 ** jnp.round(6 * share)
    return jnp.broadcast_to(step * (jnp.arange(256) // step), (image.shape[-1], 256))


def _solarizing(image: jax.Array, share: jax.Array) -> jax.Array:
    """Returns tables `[C, 256]` that invert the values from a threshold on."""
    values = jnp.arange(256.0)
    table = jnp.where(values >= 255 * (1 - share), 255 - values, values)
    return jnp.broadcast_to(table, (image.shape[-1], 256))


def _stretching(image: jax.Array) -> jax.Array:
    """Returns tables `[C, 256]` that stretch each channel's values to 0 to 255."""
    low, high = image.min((0, 1))[:, None], image.max((0, 1))[:, None]
    values = jnp.arange(256.0)
    stretched = jnp.clip((values - low) * (255 / jnp.maximum(high - low, 1)), 0, 255)
    return jnp.where(high > low, jnp.trunc(stretched), values)


def _equalizing(levels: jax.Array) -> jax.Array:
    """Returns tables `[C, 256]` that make each channel's values about equally frequent."""
    height, width, channels = levels.shape
    counts = jnp.zeros((channels, 256), int).at[jnp.arange(channels), levels].add(1)
    of_largest = jnp.take_along_axis(counts, levels.max((0, 1))[:, None], 1)
    step = (height * width - of_largest) // 255
    below = jnp.cumsum(counts, 1) - counts
    table = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, table, jnp.arange(256)).astype(jnp.float32)
