"""Initial parameters: convolution kernels `[height, width, in, out]`, linear ones `[in, out]`."""

import math
from collections.abc import Callable

import jax
import numpy as np
from jax.typing import DTypeLike

from densenet_jax.errors import InputError

# Largest array of parameters: 0.5 GB in float32. The largest in the catalogue has 10 million.
MAX_ARRAY_NUMBERS = 2**27

Initializer = Callable[[jax.Array, tuple[int, ...], DTypeLike], jax.Array]


def he_normal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Draws an HWIO kernel as the authors do: He with fan-out, N(0, sqrt(2 / (H W O)))."""
    height, width, _, out = shape
    return normal((2 / (height * width * out)) ** 0.5)(key, shape, dtype)


def he_normal_fan_in(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Draws from He's distribution with fan-in: N(0, sqrt(2 / (H W I))), as Wide ResNets do."""
    return normal((2 / math.prod(shape[:-1])) ** 0.5)(key, shape, dtype)


def xavier_uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Draws from Caffe's Xavier distribution: U(+-sqrt(3 / fan-in))."""
    return uniform((3 / math.prod(shape[:-1])) ** 0.5)(key, shape, dtype)


def torch_linear(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Draws an `[in, out]` linear kernel by Torch's default, as the authors do: U(+-1/sqrt(in))."""
    return uniform(shape[0] ** -0.5)(key, shape, dtype)


def normal(std: float) -> Initializer:
    return lambda key, shape, dtype: _draw(key, shape, dtype, lambda rng: rng.normal(0, std, shape))


def uniform(limit: float) -> Initializer:
    return lambda key, shape, dtype: _draw(
        key, shape, dtype, lambda rng: rng.uniform(-limit, limit, shape)
    )


def _draw(
    key: jax.Array,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    sample: Callable[[np.random.Generator], np.ndarray],
) -> jax.Array:
    if math.prod(shape) > MAX_ARRAY_NUMBERS:
        raise InputError(
            f"the network has an array of parameters of shape {shape}, more than "
            f"{MAX_ARRAY_NUMBERS:,} numbers: make it narrower"
        )

    # NumPy, because XLA would compile one program per shape: a minute for a deep net. So would
    # `jnp.asarray`. The callback draws the same numbers under `jax.eval_shape` and `jax.jit`.
    def call(data):
        return sample(np.random.Generator(np.random.PCG64(np.asarray(data)))).astype(dtype)

    data = jax.random.key_data(key)
    if isinstance(data, jax.core.Tracer):
        return jax.pure_callback(call, jax.ShapeDtypeStruct(shape, dtype), data)
    return jax.device_put(call(data))


def constant(value: float, features: int, dtype: DTypeLike) -> jax.Array:
    """Returns `[features]` of one value, made by NumPy: XLA would compile a program per width."""
    return jax.device_put(np.full(features, value, dtype))
