"""On CPU a convolution computed as matrix products equals XLA's convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from densenet_jax.models.convolution import convolve


@pytest.mark.parametrize("side", [4, 5], ids=["one_product", "a_product_an_image"])
@pytest.mark.parametrize("channels", [(3, 5), (5, 3)])
@pytest.mark.parametrize("size", [1, 3])
def test_a_convolution_and_its_gradients(side, channels, size):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (6, channels[0], side, side))
    kernel = jax.random.normal(keys[1], (size, size, *channels))
    g = jax.random.normal(keys[2], (6, channels[1], side, side))

    def direct(x, kernel):
        layout = ("NCHW", "HWIO", "NCHW")
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)

    @jax.jit
    def both(x, kernel):
        return [jax.vjp(function, x, kernel) for function in (convolve, direct)]

    (ours, backward), (expected, expected_backward) = both(x, kernel)
    pairs = zip(
        (ours, *jax.jit(backward)(g)), (expected, *jax.jit(expected_backward)(g)), strict=True
    )
    for found, right in pairs:
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-4 * jnp.abs(right).max())
