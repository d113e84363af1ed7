"""The kernels of dense blocks, interpreted, against convolutions of `jax.lax`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from densenet_jax.models.kernels import (
    Images,
    Normalization,
    Source,
    Target,
    convolution_gradients,
    normalize_convolve,
)
from densenet_jax.models.layers import relu, scale_shift

# The number of positions is no multiple of a tile's rows, nor are channels and outputs.
SIZE, CHANNELS, OUTPUTS = (5, 3, 7), 20, 12


def random(*shape: int) -> jax.Array:
    seed = sum(97**power * length for power, length in enumerate(shape))
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.fixture(scope="module", params=[(1, False), (9, False), (9, True)])
def case(request):
    """Returns the arguments of a convolution, whether it works in place, and its results."""
    taps, in_place = request.param
    images, height, width = SIZE
    rows = images * height * width
    source = Source(
        random(rows, 40),
        0.1 * random(CHANNELS),
        0.5 + random(CHANNELS + 1)[:CHANNELS] ** 2,
        random(CHANNELS),
        random(CHANNELS),
    )
    kernel = 0.1 * random(OUTPUTS, taps, CHANNELS)
    batch = Images(jnp.array([1.0, 1, 0, 1, 0]), height, width)
    return source, kernel, batch, 0.1 * random(OUTPUTS), in_place


def plain(source: Source, kernel: jax.Array) -> jax.Array:
    """Returns what `normalize_convolve` computes, `[positions, outputs]`."""
    outputs, taps, channels = kernel.shape
    maps, *norm = source
    a, b = scale_shift(*norm)
    side = round(taps**0.5)
    active = relu(maps[:, :channels] * a + b).reshape(*SIZE, channels)
    layouts = ("NHWC", "OHWI", "NHWC")
    kernel = kernel.reshape(outputs, side, side, channels)
    y = lax.conv_general_dilated(active, kernel, (1, 1), "SAME", dimension_numbers=layouts)
    return y.reshape(-1, outputs)


def weights(batch: Images) -> jax.Array:
    return jnp.repeat(batch.weights, batch.height * batch.width)[:, None]


def check(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * float(abs(expected).max()))


def test_forward(case):
    source, kernel, batch, center, in_place = case
    target = Target(source.maps, CHANNELS) if in_place else None
    values, sums = jax.jit(lambda: normalize_convolve(source, kernel, batch, center, target))()
    if in_place:
        others = np.r_[:CHANNELS, CHANNELS + OUTPUTS : 40]
        np.testing.assert_array_equal(values[:, others], source.maps[:, others])
        values = values[:, CHANNELS : CHANNELS + OUTPUTS]
    expected = plain(source, kernel)
    check(values, expected)
    distance = expected - center
    for actual, summand in zip(sums, (distance, distance**2), strict=True):
        check(actual, (weights(batch) * summand).sum(0))


def test_gradients(case):
    """A 1x1 convolution has batch statistics after it; in place, other gradients are added."""
    source, kernel, batch, center, in_place = case
    taps = kernel.shape[1]
    gradient, values = random(len(source.maps), OUTPUTS), 2 * random(len(source.maps), OUTPUTS)
    earlier = random(*source.maps.shape) if in_place or taps == 1 else None
    normalization, of_output = None, gradient
    if taps == 1:
        normalization = Normalization(values, center, random(OUTPUTS), 0.5 * random(OUTPUTS))
        _, mean, of_mean, of_variance = normalization
        of_output = gradient + weights(batch) * (of_mean + of_variance * (values - mean))
    of_maps, of_kernel, of_affine = jax.jit(
        lambda: convolution_gradients(source, kernel, batch, gradient, normalization, earlier)
    )()
    of_source, expected_of_kernel = jax.vjp(plain, source, kernel)[1](of_output)
    expected = of_source.maps if earlier is None else of_source.maps + earlier
    check(of_maps, expected[:, : of_maps.shape[1]])
    check(of_kernel, expected_of_kernel)
    # The gradients of scale and shift follow from those of the norm's scale and bias.
    a = scale_shift(*source[1:])[0] / source.scale
    check(of_affine[1], of_source.bias)
    check((of_affine[0] - source.mean * of_affine[1]) * a, of_source.scale)


def test_values_outside_the_maps_do_not_matter(case):
    """Columns behind the channels may hold anything, such as NaN."""
    source, kernel, batch, center, in_place = case
    dirty = source._replace(maps=source.maps.at[:, CHANNELS:].set(jnp.nan))
    target = Target(dirty.maps, CHANNELS) if in_place else None
    values, sums = jax.jit(lambda: normalize_convolve(dirty, kernel, batch, center, target))()
    values = values[:, CHANNELS : CHANNELS + OUTPUTS] if in_place else values
    assert np.isfinite(values).all() and np.isfinite(sums).all()


def test_nan_in_the_maps_is_not_lost(case):
    source, kernel, batch, center, in_place = case
    broken = source._replace(maps=source.maps.at[40, 3].set(jnp.nan))
    target = Target(broken.maps, CHANNELS) if in_place else None
    values, _ = jax.jit(lambda: normalize_convolve(broken, kernel, batch, center, target))()
    values = values[:, CHANNELS : CHANNELS + OUTPUTS] if in_place else values
    assert np.isnan(values[40]).all()
