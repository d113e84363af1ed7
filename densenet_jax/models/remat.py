"""Memory of a training step that is linear in depth (TPAMI section 3.4); see README.md."""

import functools
from collections.abc import Callable
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from densenet_jax.models.layers import FeatureMap

# Number of layers that read the same copy of earlier maps, and whose gradients of these maps are
# added together. More layers take more memory and less time.
LAYERS_PER_SUM = 4

Remat = Literal["none", "concat", "layer"]  # See DenseNetConfig.
Result = TypeVar("Result")


def remat_if(condition: bool, function: Callable[..., Result]) -> Callable[..., Result]:
    """Returns `function`; under `condition` it keeps only its inputs for the backward pass."""
    return jax.checkpoint(function) if condition else function


def grow(
    maps: list[FeatureMap], layers: int, new_maps: Callable[[int, list[FeatureMap]], FeatureMap]
) -> list[FeatureMap]:
    """Returns `maps` followed by those of each layer: `new_maps(number, all earlier maps)`.

    The backward pass adds up the gradients of earlier maps after every few layers.
    """
    for first in range(0, layers, LAYERS_PER_SUM):
        numbers = range(first + 1, min(first + LAYERS_PER_SUM, layers) + 1)
        *copies, maps = copy_for_readers(maps, len(numbers) + 1)
        new: list[FeatureMap] = []
        for number, earlier in zip(numbers, copies, strict=True):
            new.append(new_maps(number, [*earlier, *new]))
        maps = [*maps, *new]
    return maps


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def copy_for_readers(maps: list[FeatureMap], readers: int) -> tuple[list[FeatureMap], ...]:
    """Returns `maps` once for each of `readers`; the backward pass adds up their gradients.

    Otherwise XLA may keep the gradients of all readers until it can add all of them. Their memory
    would grow with the square of the depth.
    """
    return (maps,) * readers


def _add_gradients(readers: int, _, gradients: tuple[list[FeatureMap], ...]):
    added = lax.platform_dependent(*gradients, cuda=_add_all_channels, default=_add_each_map)
    return (added,)


def _add_each_map(*gradients):
    added = jax.tree.map(lambda *of_readers: sum(of_readers[1:], of_readers[0]), *gradients)
    return lax.optimization_barrier(added)


def _add_all_channels(*gradients):
    """Adds the gradients of all maps at once, concatenated as each reader has them.

    Map by map, a GPU would slowly read the few channels of each map out of every reader's gradient.
    At L = 100 one such kernel took 714 us on an H100; at the speed of a copy it would take 20 us.
    """
    first, structure = jax.tree.flatten(gradients[0])
    fields = len(first) // len(gradients[0])
    added = list(first)
    for field in range(fields):  # The values of all maps, then their means, variances and sizes.
        axis = min(first[field].ndim - 1, 1)
        of_readers = [jnp.concatenate(jax.tree.leaves(g)[field::fields], axis) for g in gradients]
        total = lax.optimization_barrier(sum(of_readers[1:], of_readers[0]))
        channels = [leaf.shape[axis] for leaf in first[field::fields]]
        added[field::fields] = lax.split(total, channels, axis=axis)
    return structure.unflatten(added)


copy_for_readers.defvjp(lambda maps, readers: ((maps,) * readers, None), _add_gradients)


def join(values: list[jax.Array]) -> jax.Array:
    """Returns the concatenation of maps `[N, C, H, W]` along channels."""
    return _join(values) if len(values) > 1 else values[0]


@jax.custom_vjp
def _join(values):
    return jnp.concatenate(values, axis=1)


def _join_backward(channels, gradient):
    # A GPU writes the whole gradient before splitting it. Otherwise XLA would recompute it
    # from its inputs wherever a part of it is used.
    gradient = lax.platform_dependent(
        gradient, cuda=lax.optimization_barrier, default=lambda gradient: gradient
    )
    return (lax.split(gradient, channels, axis=1),)


_join.defvjp(lambda values: (_join(values), [x.shape[1] for x in values]), _join_backward)
