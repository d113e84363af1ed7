"""Gradients of a batch that is processed in parts, one after another, to need less memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from densenet_jax.data.batches import Batch


def accumulated(
    gradient: Callable, params: Any, batch_stats: Any, batch: Batch, count: int, unroll: bool
) -> tuple[Any, tuple[Any, Any]]:
    """Returns the gradients of `batch`, its totals and the new running statistics.

    All equal those of the whole batch with batch statistics over each part.

    Args:
      gradient: returns the gradients of a part of the batch, its totals and the new running
        statistics, from `params`, the part, and its number with `count`.
      batch_stats: running statistics before the step.
      count: number of parts, which divides the batch.
      unroll: repeats the program of a part instead of looping over the parts.
    """
    examples = jnp.maximum(batch.mask.sum(), 1)

    def divided(x: jax.Array) -> jax.Array:
        parts = x.reshape(count, -1, *x.shape[1:])
        if jax.sharding.get_abstract_mesh().empty:
            return parts
        # Each part has images on all devices.
        return lax.with_sharding_constraint(parts, PartitionSpec(None, "data"))

    def of_part(number: jax.Array, part: Batch):
        grads, (totals, new_stats) = gradient(params, part, (number, count))
        share = part.mask.sum() / examples
        changes = jax.tree.map(
            # Statistics of padding alone are NaN.
            lambda new, old: jnp.where(share > 0, share * (new - old), 0),
            *(new_stats, batch_stats),
        )
        return grads, totals, changes

    parts = jnp.arange(count), jax.tree.map(divided, batch)
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of_part, *first))
    (grads, totals, changes), _ = lax.scan(
        lambda sums, part: (jax.tree.map(jnp.add, sums, of_part(*part)), None),
        *(zeros, parts),
        unroll=unroll,
    )
    return grads, (totals, jax.tree.map(jnp.add, batch_stats, changes))
