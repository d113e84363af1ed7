"""Small data sets that live on the device whole: order, batches, augmentation inside jit.

Everything random here is a function of (seed, epoch, example), so that neither the number of
devices nor a restart changes a picture.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PADDING = -1  # In an index array: no example.


class Batch(NamedTuple):
    """images `[N, H, W, C]` normalised; labels `[N]` int32; mask `[N]`, 0 for padding."""

    images: jax.Array
    labels: jax.Array
    mask: jax.Array


def epoch_order(
    seed: int, epoch: int, examples: int, batch_size: int, drop_last: bool = False
) -> np.ndarray:
    """Indices `[steps, batch_size]` of a shuffled epoch.

    The short last batch ends in PADDING, or is left out if `drop_last`.
    """
    order = np.random.default_rng([seed, epoch]).permutation(examples)
    return in_batches(order[: -(examples % batch_size) or None] if drop_last else order, batch_size)


def in_batches(indices: np.ndarray, batch_size: int) -> np.ndarray:
    """Cuts `indices` into rows of `batch_size`, filling the last one with PADDING."""
    rows = -(-len(indices) // batch_size)
    filled = np.full(rows * batch_size, PADDING, np.int32)
    filled[: len(indices)] = indices
    return filled.reshape(rows, batch_size)


def take(images: jax.Array, labels: jax.Array, indices: jax.Array, mean, std, dtype) -> Batch:
    """Gathers and normalises the examples at `indices` (`[N]`) of a resident set.

    Args:
      images: `[examples, H, W, C]` uint8; labels: `[examples]` int32.
      mean, std: per channel, on the scale of `images`.
    """
    mask = indices != PADDING
    indices = jnp.maximum(indices, 0)
    wide = jnp.promote_types(dtype, jnp.float32)
    x = (images[indices].astype(wide) - jnp.asarray(mean, wide)) / jnp.asarray(std, wide)
    return Batch(x.astype(dtype), labels[indices], mask.astype(wide))


def augment(
    images: jax.Array,
    indices: jax.Array,
    key: jax.Array,
    padding: int,
    flip: bool,
    padding_mode: str = "zeros",
) -> jax.Array:
    """The authors' augmentation: flip half the images, then crop at random with a border.

    Images are normalised before, so a border of zeros has the mean colour.

    Args:
      images: `[N, H, W, C]`.
      indices: `[N]`, which examples these are.
      key: of this epoch.
      padding: width of the border; the crop has the size of the image.
      flip: whether to flip.
      padding_mode: "zeros", or "reflect": the image goes on mirrored, its edge not repeated.
    """
    mode = "constant" if padding_mode == "zeros" else padding_mode

    def one(image, index):
        crop_key, flip_key = jax.random.split(jax.random.fold_in(key, index))
        if flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode=mode)
        top, left = jax.random.randint(crop_key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)

    return jax.vmap(one)(images, indices)
