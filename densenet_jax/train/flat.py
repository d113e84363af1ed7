"""The train state as flat vectors, for loops of steps on a GPU.

A DenseNet has hundreds of small parameters. Updating, averaging and converting each of them takes
many kernels that do almost no work. Vectors of all parameters need only a few kernels.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax import lax


@dataclasses.dataclass(frozen=True)
class Packing:
    """The order and the shapes of the arrays of a tree that are stored in one vector.

    Convolution kernels are stored as `[out, height, width, in]`, the order of cuDNN: in another
    order each kernel would be transposed three times a step.
    """

    tree: jax.tree_util.PyTreeDef
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, tree) -> Self:
        leaves, structure = jax.tree.flatten(tree)
        return cls(structure, tuple(leaf.shape for leaf in leaves))

    def fits(self, tree) -> bool:
        """Returns whether `tree` has the structure of this packing."""
        return jax.tree.structure(tree) == self.tree

    def pack(self, tree) -> jax.Array:
        """Returns the arrays of `tree` as one vector, empty for a tree without arrays."""
        leaves = [_outputs_first(leaf).ravel() for leaf in jax.tree.leaves(tree)]
        return jnp.concatenate(leaves) if leaves else jnp.zeros(0)

    def unpack(self, vector: jax.Array, kernels=None):
        """Returns the tree that `vector` stores, with convolution kernels in the type `kernels`.

        One operation converts all kernels, outside the parts of the network that the backward pass
        recomputes. None leaves their type.
        """
        leaves = self._split(vector)
        if kernels and kernels != vector.dtype:
            converted = self._split(vector.astype(kernels))
            leaves = [c if x.ndim == 4 else x for x, c in zip(leaves, converted, strict=True)]
        return self.tree.unflatten(leaves)

    def _split(self, vector: jax.Array) -> list[jax.Array]:
        sizes = [math.prod(shape) for shape in self.shapes]
        parts = lax.split(vector, sizes) if sizes else []
        return [_shaped(part, shape) for part, shape in zip(parts, self.shapes, strict=True)]


def _outputs_first(array: jax.Array) -> jax.Array:
    return array.transpose(3, 0, 1, 2) if array.ndim == 4 else array


def _shaped(part: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns the array of `shape` that is stored as `part`."""
    if len(shape) == 4:
        return part.reshape(shape[3], *shape[:3]).transpose(1, 2, 3, 0)
    return part.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The packing of the parameters and the running statistics of a train state.

    Parts of the optimiser's state with the structure of the parameters are packed like these.
    """

    params: Packing
    batch_stats: Packing

    @classmethod
    def of(cls, params, batch_stats) -> Self:
        return cls(Packing.of(params), Packing.of(batch_stats))

    def flatten(self, state: Any) -> Any:
        """Returns the train state `state` with vectors instead of trees."""
        return dataclasses.replace(
            state,
            params=self.params.pack(state.params),
            batch_stats=self.batch_stats.pack(state.batch_stats),
            average=self._of_average(Packing.pack, state.average),
            opt_state=jax.tree.map(
                lambda part: self.params.pack(part) if self.params.fits(part) else part,
                state.opt_state,
                is_leaf=self.params.fits,
            ),
        )

    def restore(self, state: Any, like: Any) -> Any:
        """Undoes `flatten`. `like` is the train state that `flatten` was given."""
        return dataclasses.replace(
            state,
            params=self.params.unpack(state.params),
            batch_stats=self.batch_stats.unpack(state.batch_stats),
            average=self._of_average(Packing.unpack, state.average),
            opt_state=jax.tree.map(
                lambda was, part: self.params.unpack(part) if self.params.fits(was) else part,
                like.opt_state,
                state.opt_state,
                is_leaf=self.params.fits,
            ),
        )

    def _of_average(self, change: Callable, average: dict[str, Any] | None):
        """Returns `average` with `change(packing, part)` of its parts, None if there is none."""
        return average and {
            name: change(getattr(self, name), part) for name, part in average.items()
        }
