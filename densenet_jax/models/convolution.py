"""Convolution for each platform: feature maps `[N, C, H, W]`, kernels `[height, width, in, out]`.

The compilers for GPU and TPU choose the layout of a convolution themselves. On CPU a training step
is fastest if each convolution of stride 1 is one matrix product per image, before or after shifted
copies. With few positions one product for all images is faster. Channels come before positions, so
that concatenation, normalisation and statistics run over long contiguous rows. Without gradients
XLA's own convolutions are faster. launch/benchmark/NOTES.md has the measurements.
"""

import functools
import operator

import jax
import jax.numpy as jnp
from jax import lax


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Returns the convolution of `[N, in, H, W]` with a square kernel.

    An odd kernel size pads with zeros, which keeps H and W, divided by `stride`. An even size does
    not pad. A kernel with fewer than `in` input channels makes the convolution grouped.
    """
    grouped = kernel.shape[2] < x.shape[1]
    return _direct(x, kernel, stride) if stride > 1 or grouped else _differentiable(x, kernel)


def _direct(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    size, _, inputs, _ = kernel.shape
    pad = size // 2 * (size % 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NCHW", "HWIO", "NCHW"),
        feature_group_count=x.shape[1] // inputs,
    )


def _aligned(x, kernel):
    """Convolves with channels padded by zeros to multiples of 8, if the values have 16 bits.

    Tensor cores read 8 channels at once. cuDNN would pad k = 12 channels itself, with several
    kernels for each operand.
    """
    if x.dtype.itemsize != 2 or len(kernel) == 1:
        return _direct(x, kernel)
    inputs, outputs = (-n % 8 for n in kernel.shape[2:])
    x = jnp.pad(x, ((0, 0), (0, inputs), (0, 0), (0, 0)))
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, inputs), (0, outputs)))
    y = _direct(x, kernel)
    return y[:, : y.shape[1] - outputs]


# A custom derivative, because that of `platform_dependent` would keep values for every backend.
# Under `jit`, so that layers of equal shapes are traced once.
@jax.custom_vjp
@jax.jit
def _differentiable(x, kernel):
    return _direct(x, kernel)


@jax.jit
def _forward(x, kernel):
    y = lax.platform_dependent(x, kernel, cpu=_products, cuda=_aligned, default=_direct)
    return y, (x, kernel)


@jax.jit
def _backward(residuals, g):
    def backward(function):
        return lambda x, kernel, g: jax.vjp(function, x, kernel)[1](g)

    forms = {"cpu": _products, "cuda": _aligned, "default": _direct}
    forms = {platform: backward(form) for platform, form in forms.items()}
    return lax.platform_dependent(*residuals, g, **forms)


_differentiable.defvjp(_forward, _backward)


def _products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves by one matrix product, with shifted copies of the narrower side."""
    size, _, inputs, outputs = kernel.shape
    if inputs < outputs:
        return product(kernel.reshape(-1, outputs).T, unfold(x, size))
    flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    return fold(product(flipped.reshape(-1, inputs), x), size)


@jax.custom_vjp
def product(weights: jax.Array, x: jax.Array) -> jax.Array:
    """Returns `[out, in]` weights times the channels of `[N, in, H, W]`."""
    outputs = len(weights)
    if _few_positions(x):
        y = (weights @ _columns(x)).reshape(outputs, len(x), *x.shape[2:])
        return y.swapaxes(0, 1)
    # With a copy of the weights for each image, the result has its final layout; XLA would
    # transpose the result of one product. The barrier transposes the weights before the copying.
    copies = jnp.broadcast_to(lax.optimization_barrier(weights), (len(x), *weights.shape))
    return (copies @ _rows(x)).reshape(len(x), outputs, *x.shape[2:])


def _product_forward(weights, x):
    return product(weights, x), (weights, x)


def _product_backward(residuals, g):
    weights, x = residuals
    if _few_positions(x):
        of_weights = _columns(g) @ _columns(x).T
    else:
        of_weights = jnp.einsum("nop,nip->noi", _rows(g), _rows(x)).sum(0)
    return of_weights, product(weights.T, g)


product.defvjp(_product_forward, _product_backward)


def _few_positions(x: jax.Array) -> bool:
    """Returns whether one product for all images beats one per image, despite transpositions."""
    return x.shape[2] * x.shape[3] <= 16


def _rows(x: jax.Array) -> jax.Array:
    """Reshapes `[N, C, H, W]` to `[N, C, H W]`."""
    return x.reshape(*x.shape[:2], -1)


def _columns(x: jax.Array) -> jax.Array:
    """Transposes `[N, C, H, W]` to `[C, N H W]`."""
    return x.swapaxes(0, 1).reshape(x.shape[1], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def unfold(x: jax.Array, size: int) -> jax.Array:
    """Returns the `size` x `size` neighbourhood of each position, zeros beyond the border.

    The result of `[N, C, H, W]` is `[N, size size C, H, W]`, channels fastest.
    """
    if size == 1:
        return x
    height, width = x.shape[2:]
    x = _pad(x, size // 2)
    shifted = [x[..., i : i + height, j : j + width] for i in range(size) for j in range(size)]
    # Materialised once for two consumers.
    return lax.optimization_barrier(jnp.concatenate(shifted, axis=1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def fold(x: jax.Array, size: int) -> jax.Array:
    """Adds up each position's contributions to its neighbours: the transpose of `unfold`."""
    if size == 1:
        return x
    height, width = x.shape[2:]
    x = _pad(x.reshape(x.shape[0], size, size, -1, height, width), size // 2)
    far = size - 1
    shifted = [
        x[:, i, j, :, far - i : far - i + height, far - j : far - j + width]
        for i in range(size)
        for j in range(size)
    ]
    return functools.reduce(operator.add, shifted)


def _pad(x: jax.Array, pad: int) -> jax.Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(pad, pad)] * 2)


unfold.defvjp(lambda x, size: (unfold(x, size), None), lambda size, _, g: (fold(g, size),))
fold.defvjp(lambda x, size: (fold(x, size), None), lambda size, _, g: (unfold(g, size),))
