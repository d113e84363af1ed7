"""RandAugment (Cubuk et al., NeurIPS 2020) as in timm: random changes to each image, inside jit.

The policy is `rand-mM-mstd0.5-inc1` of timm 1.0. The paper draws some of 14 operations, the
identity among them, with one strength. timm draws two of 15 operations, the same one twice at
times, applies each with a probability, and also draws its strength. A larger strength changes more.

timm draws the interpolation of each move, bilinear or bicubic. Here every move is bilinear. A
strength of 10 leaves no bits of a posterised image, which then is black; timm fails there with
Pillow 13.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from densenet_jax.data.operations import BLENDS, OPERATIONS, apply

CHANGES = tuple(name for name in OPERATIONS if name != "identity")
MOST = 10  # The largest strength: `_LEVEL_DENOM` of timm/data/auto_augment.py.

# Defaults of `rand_augment_transform` and the "mstd0.5" of the policy's name, in the same file.
_LAYERS = 2
_PROBABILITY = 0.5
_DEVIATION = 0.5


def random_augment(
    images: jax.Array,
    indices: jax.Array,
    key: jax.Array,
    strength: float,
    mean: Sequence[float],
    white: float = 255,
) -> jax.Array:
    """Returns float32 images, each changed by up to two random operations of `CHANGES`.

    Args:
      images: `[N, H, W, C]`, from 0 to `white`, with 1 or 3 channels.
      indices: `[N]`, indices of the examples.
      key: the key of this epoch.
      strength: mean of the random strengths, M in timm's name of the policy, from 0 to 10.
      mean: colour of positions that a move takes from outside the image, from 0 to `white`.
      white: largest value of a pixel.
    """
    fill = jnp.round(jnp.asarray(mean, jnp.float32) * (255 / white))

    def one(image: jax.Array, index: jax.Array) -> jax.Array:
        for layer_key in jax.random.split(jax.random.fold_in(key, index), _LAYERS):
            kind, drawn, sign = draw(layer_key, strength)
            image = apply(image, kind, amount(kind, drawn, sign, image.shape), fill, smooth=True)
        return image

    levels = jnp.round(images.astype(jnp.float32) * (255 / white))
    return (jax.vmap(one)(levels, indices) * (white / 255)).astype(jnp.float32)


def draw(key: jax.Array, strength: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the position in `OPERATIONS` of a random operation, its strength and its sign."""
    kind_key, use_key, strength_key, sign_key = jax.random.split(key, 4)
    kind = jax.random.randint(kind_key, (), 0, len(CHANGES))
    kind = jnp.array([OPERATIONS.index(name) for name in CHANGES])[kind]
    is_used = jax.random.bernoulli(use_key, _PROBABILITY)
    kind = jnp.where(is_used, kind, OPERATIONS.index("identity"))
    drawn = strength + _DEVIATION * jax.random.normal(strength_key, (), jnp.float32)
    sign = jax.random.rademacher(sign_key, (), jnp.float32)
    return kind, jnp.clip(drawn, 0, MOST), sign


def amount(
    kind: jax.Array, strength: jax.Array, sign: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """Returns the amount of `OPERATIONS[kind]` for an image `[H, W, C]` of this shape.

    Args:
      strength: from 0 to 10.
      sign: 1 or -1, the direction of moves and blends.
    """
    height, width, _ = shape
    share = strength / MOST
    amounts = {
        "rotate": jnp.deg2rad(30) * sign * share,
        **dict.fromkeys(("shear_x", "shear_y"), 0.3 * sign * share),
        "translate_x": 0.45 * width * sign * share,
        "translate_y": 0.45 * height * sign * share,
        **dict.fromkeys(BLENDS, jnp.maximum(1 + 0.9 * sign * share, 0.1)),
        "posterize": 4 - jnp.trunc(4 * share),
        "solarize": 256 - jnp.trunc(256 * share),
        "solarize_add": jnp.trunc(110 * share),
    }
    return jnp.array([amounts.get(name, 0.0) for name in OPERATIONS])[kind]
