"""What keeps the memory of a training step linear in depth (TPAMI section 3.4)."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from densenet_jax.models.layers import FeatureMap

# How many layers read the same copy of the maps before them, after which the gradients of these
# layers are added. More layers take more memory and less time.
LAYERS_PER_SUM = 4


def remat_if(condition: bool, function: Callable) -> Callable:
    """`function`, keeping only its inputs for the backward pass if `condition` holds."""
    return jax.checkpoint(function) if condition else function


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def copy_for_readers(maps: list[FeatureMap], readers: int) -> tuple[list[FeatureMap], ...]:
    """Returns `maps` once for each of `readers`, whose gradients the backward pass adds up here.

    Left to itself XLA may keep the gradient of every reader until all can be added, and their
    memory grows with the square of the depth. It would also add them map by map, each out of a few
    channels of every reader's gradient, which a GPU reads slowly; here all channels are added at
    once.
    """
    return (maps,) * readers


def _add_gradients(readers: int, _, gradients: tuple[list[FeatureMap], ...]):
    first, structure = jax.tree.flatten(gradients[0])
    fields = len(first) // len(gradients[0])
    summed = [None] * len(first)
    for field in range(fields):  # Values, means, variances and so on, each of all maps.
        axis = min(first[field].ndim - 1, 1)
        of_readers = [jnp.concatenate(jax.tree.leaves(g)[field::fields], axis) for g in gradients]
        total = lax.optimization_barrier(sum(of_readers[1:], of_readers[0]))
        channels = [leaf.shape[axis] for leaf in first[field::fields]]
        summed[field::fields] = lax.split(total, channels, axis=axis)
    return (structure.unflatten(summed),)


copy_for_readers.defvjp(lambda maps, readers: ((maps,) * readers, None), _add_gradients)
