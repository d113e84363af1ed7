"""The order of examples in an epoch, and the batches that a step sees.

The order is a function of (seed, epoch). So it does not depend on the number of devices, hosts or
workers, nor on restarts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

PADDING = -1  # Index of a missing example, which fills up the last batch.


class Partners(NamedTuple):
    """The images that those of a batch are mixed with.

    Attributes:
      labels: `[N]`, labels of the images that are mixed in.
      share: `[N]`, the share of each image itself; the rest is that of its partner.
    """

    labels: jax.Array
    share: jax.Array


class Batch(NamedTuple):
    """A batch of normalised images.

    Attributes:
      images: `[N, H, W, C]`.
      labels: int32 `[N]`, or `[N, classes]` for several labels per image.
      mask: `[N]`, 0 for padding and 1 for other images.
      partners: what the images are mixed with; None: they are not mixed.
    """

    images: jax.Array
    labels: jax.Array
    mask: jax.Array
    partners: Partners | None = None


def epoch_order(
    seed: int, epoch: int, examples: int, batch_size: int, drop_last: bool = False
) -> np.ndarray:
    """Returns the indices `[steps, batch_size]` of a shuffled epoch.

    PADDING fills up a short last batch; `drop_last` omits it instead.
    """
    order = np.random.default_rng([seed, epoch]).permutation(examples)
    return in_batches(order[: -(examples % batch_size) or None] if drop_last else order, batch_size)


def in_batches(indices: np.ndarray, batch_size: int) -> np.ndarray:
    """Cuts `indices` into rows of `batch_size`, and fills up the last row with PADDING."""
    rows = -(-len(indices) // batch_size)
    filled = np.full(rows * batch_size, PADDING, np.int32)
    filled[: len(indices)] = indices
    return filled.reshape(rows, batch_size)


def normalize(
    images: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: DTypeLike,
) -> Batch:
    """Builds a normalised batch from stored images.

    Args:
      images: `[N, H, W, C]`, of any type.
      labels: `[N]`.
      indices: `[N]`, indices of the examples, which may be PADDING.
      mean, std: mean and standard deviation per channel, on the scale of `images`.
      dtype: type of the normalised images.
    """
    wide = jnp.promote_types(dtype, jnp.float32)
    x = (images.astype(wide) - jnp.asarray(mean, wide)) / jnp.asarray(std, wide)
    return Batch(x.astype(dtype), labels, (indices != PADDING).astype(wide))
