"""Pooling of feature maps `[N, C, H, W]`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax


def average_pool(x: jax.Array) -> jax.Array:
    """Returns means of 2x2 positions, `[N, C, H/2, W/2]`; drops an odd last row or column."""
    window = (1, 1, 2, 2)
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, window, window, "VALID") / 4


def max_pool(x: jax.Array, size: int = 3, padding: tuple[int, int] = (1, 1)) -> jax.Array:
    """Returns the maxima of `size` x `size` windows at every second position: half H and W.

    Args:
      padding: rows and columns of -inf before and after the map. ResNet pads (1, 1). Caffe with
        size 3 pads (0, 1): the first window starts in the corner, the last may overhang.
    """
    # Padded beforehand for the converter to ONNX.
    x = jnp.pad(x, ((0, 0), (0, 0), padding, padding), constant_values=-jnp.inf)
    return _max_pool(x, size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x, size):
    return _maxima(x, size)


def _maxima(x, size):
    # nnx.max_pool, because the converter to ONNX knows it: `[N, C, H, W, 1]` as volumes of depth C.
    # Images and channels stay two dimensions: a GPU would have to transpose them to merge them.
    window = (1, size, size)
    pooled = nnx.max_pool(x[..., None], window_shape=window, strides=(1, 2, 2), padding="VALID")
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
    """Returns the gradient of `x`: a window's gradient reaches the first position of its maximum.

    Otherwise a GPU would scatter the gradients by atomic additions, slowly and in no fixed order.
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
    first = lax.optimization_barrier(first)  # Computed once for all places.
    wide = gradient.astype(jnp.promote_types(gradient.dtype, jnp.float32))
    total = jnp.zeros(x.shape, wide.dtype)
    for number, place in enumerate(places):
        edges = [(s.start, n - s.stop, 1) for s, n in zip(place, x.shape[2:], strict=True)]
        chosen = jnp.where(first == number, wide, 0)
        total += lax.pad(chosen, np.zeros((), wide.dtype), [(0, 0, 0), (0, 0, 0), *edges])
    return total.astype(gradient.dtype)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
