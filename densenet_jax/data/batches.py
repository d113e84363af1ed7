"""Which examples a step works on, in which order, and what it sees of them.

The order is a function of (seed, epoch), so that neither the number of devices, hosts or workers
nor a restart changes it.
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


def normalize(images: jax.Array, labels: jax.Array, indices: jax.Array, mean, std, dtype) -> Batch:
    """The examples at `indices` (`[N]`), of which some may be PADDING, as a network sees them.

    Args:
      images: `[N, H, W, C]`, uint8 or not; labels: `[N]`.
      mean, std: per channel, on the scale of `images`.
    """
    wide = jnp.promote_types(dtype, jnp.float32)
    x = (images.astype(wide) - jnp.asarray(mean, wide)) / jnp.asarray(std, wide)
    return Batch(x.astype(dtype), labels, (indices != PADDING).astype(wide))
