"""TrivialAugment (Müller and Hutter, ICCV 2021): one random change to each image, inside jit.

The changes are the authors' "wide" ones, with torchvision's strengths. Moves take the nearest
position and fill with black, as torchvision does by default.
"""

import jax
import jax.numpy as jnp

from densenet_jax.data.operations import BLENDS, MOVES, OPERATIONS, apply

CHANGES = ("identity", *MOVES, *BLENDS, "posterize", "solarize", "autocontrast", "equalize")
STRENGTHS = 31  # Strengths are the numbers from 0 to 30.

_FARTHEST = 32  # Pixels.
_WIDEST = jnp.pi * 135 / 180
_MOST = 0.99  # Of shears and blends.


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
    share, signed = strength / (STRENGTHS - 1), sign * strength / (STRENGTHS - 1)
    pixels = sign * (_FARTHEST * strength // (STRENGTHS - 1))
    amounts = {
        "rotate": _WIDEST * signed,
        **dict.fromkeys(("shear_x", "shear_y"), _MOST * signed),
        **dict.fromkeys(("translate_x", "translate_y"), pixels),
        **dict.fromkeys(BLENDS, 1 + _MOST * (sign * share)),
        "posterize": 8 - jnp.round(6 * share),
        "solarize": 255 * (1 - share),
    }
    amount = jnp.array([amounts.get(name, 0.0) for name in CHANGES])[kind]
    operation = jnp.array([OPERATIONS.index(name) for name in CHANGES])[kind]
    return apply(image, operation, amount, jnp.zeros(image.shape[-1]))
