"""Pooling of feature maps `[N, C, H, W]`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax


def average_pool(x: jax.Array) -> jax.Array:
    """Means of 2x2 positions: `[N, C, H, W]` to `[N, C, H/2, W/2]`, an odd last one left out."""
    window = (1, 1, 2, 2)
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, window, window, "VALID") / 4


def max_pool(x: jax.Array, size: int = 3, padding: tuple[int, int] = (1, 1)) -> jax.Array:
    """Maxima of `size` x `size` positions, every second one: `[N, C, H, W]` to half H and W.

    Args:
      padding: rows and columns of nothing before and after the map. (1, 1) is ResNet's; (0, 1),
        of size 3, is Caffe's, whose first window starts in the corner and whose last may hang over.
    """
    # Padded beforehand for the converter to ONNX.
    x = jnp.pad(x, ((0, 0), (0, 0), padding, padding), constant_values=-jnp.inf)
    return _max_pool(x, size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x, size):
    return _maxima(x, size)


def _maxima(x, size):
    # By a function that the converter to ONNX knows. Images and channels stay two dimensions: as
    # one they would have to be transposed on a GPU.
    pooled = nnx.max_pool(x[..., None], window_shape=(size, size), strides=(2, 2), padding="VALID")
    return pooled[..., 0]


def _max_pool_forward(x, size):
    maxima = _maxima(x, size)
    return maxima, (x, maxima)


def _max_pool_backward(size, residuals, gradient):
    def scattered(x, _, gradient):
        return jax.vjp(lambda x: _maxima(x, size), x)[1](gradient)[0]

    gathered = functools.partial(_gather_gradients, size)
    of_x = lax.platform_dependent(*residuals, gradient, cuda=gathered, default=scattered)
    return (of_x,)


def _gather_gradients(size, x, maxima, gradient):
    """Returns the gradient of `x`: each window's goes to the first position that has its maximum.

    A GPU would scatter them with atomic additions otherwise, slowly and in no certain order.
    """
    places = [
        tuple(
            slice(start, start + 2 * n - 1, 2)
            for start, n in zip(at, maxima.shape[2:], strict=True)
        )
        for at in np.ndindex(size, size)
    ]
    first = jnp.full(maxima.shape, len(places), jnp.int8)
    for number, (rows, columns) in reversed(list(enumerate(places))):
        first = jnp.where(x[:, :, rows, columns] == maxima, jnp.int8(number), first)
    first = lax.optimization_barrier(first)  # Found once, not for each place.
    wide = gradient.astype(jnp.promote_types(gradient.dtype, jnp.float32))
    total = jnp.zeros(x.shape, wide.dtype)
    for number, place in enumerate(places):
        edges = [(s.start, n - s.stop, 1) for s, n in zip(place, x.shape[2:], strict=True)]
        chosen = jnp.where(first == number, wide, 0)
        total += lax.pad(chosen, np.zeros((), wide.dtype), [(0, 0, 0), (0, 0, 0), *edges])
    return total.astype(gradient.dtype)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
