"""Batch statistics of feature maps `[N, C, H, W]`, with a form for each kind of device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from densenet_jax.errors import InputError, counted


class Statistics(NamedTuple):
    """Mean and biased variance of each channel, over groups of images of equal size.

    Both have shape `[groups, channels]`. `size`, `[groups, 1]`, is the number of values that
    count, 0 for a group of padding alone.
    """

    mean: jax.Array
    var: jax.Array
    size: jax.Array


def batch_statistics(
    values: jax.Array,
    mask: jax.Array | None = None,
    group_size: int = 0,
    expected_mean: jax.Array | None = None,
) -> Statistics:
    """Returns the statistics of `[N, C, H, W]` values over the images that `mask` marks with 1.

    Computes in float32 at least. Under `jit` with a sharded batch the statistics are those of the
    global batch. `group_size` images in sequence, which may be on several devices, form a group
    with separate statistics; 0: all images are one group.

    Args:
      mask: `[N]`, 1 for images that count and 0 for padding; None: all count.
      expected_mean: `[C]`, an approximation of the mean, such as a running mean. It affects only
        rounding: the variance loses digits if it is many standard deviations from the mean. None:
        each channel's first value.

    Raises:
      InputError: N is no multiple of `group_size`.
    """
    images, _, height, width = values.shape
    check_groups(images, group_size)
    wide = jnp.promote_types(values.dtype, jnp.float32)
    groups = images // (group_size or images)
    if expected_mean is not None:
        expected_mean = lax.stop_gradient(expected_mean).astype(wide)
    if mask is None:
        count = jnp.full((groups, 1), images // groups * height * width, wide)
        return Statistics(*_mean_and_variance(values, None, count, expected_mean), count)
    weights = mask.astype(wide).reshape(groups, -1, 1)
    count = weights.sum(1) * (height * width)
    # A group of padding alone is normalised by its own statistics, which keeps its values finite.
    weights = jnp.where(count[..., None] > 0, weights, 1)
    total = jnp.where(count > 0, count, weights.shape[1] * height * width)
    return Statistics(*_mean_and_variance(values, weights, total, expected_mean), count)


def check_groups(images: int, group_size: int) -> None:
    """Raises InputError if `images` is no multiple of `group_size`."""
    if group_size and images % group_size:
        raise InputError(
            f"a batch of {counted(images, 'image')} cannot be divided into groups of bn_group_size "
            f"{group_size}: use a multiple of it"
        )


@jax.custom_vjp
def _mean_and_variance(
    values: jax.Array,
    weights: jax.Array | None,
    total: jax.Array,
    expected_mean: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Returns each group's mean and variance of each channel, `[groups, C]`.

    Images are weighted by `weights`, `[groups, images in a group, 1]`, and `total`, `[groups, 1]`,
    is the number of values that count. For the backward pass keeps only the values, which other
    operations keep anyway, and no wider copy.
    """
    return lax.platform_dependent(
        *(values, weights, total, expected_mean), cpu=_two_passes, default=_one_pass
    )


def _two_passes(values, weights, total, _):
    x = values.astype(total.dtype)

    def mean(y):
        # Sums each image first, because a mask on whole maps would be one more pass over them.
        of_images = y.sum((2, 3)).reshape(len(total), -1, y.shape[1])
        return (of_images if weights is None else weights * of_images).sum(1) / total

    center = mean(x)
    return center, mean(jnp.square(x - per_image(center, len(x))))


def _one_pass(values, weights, total, expected_mean):
    """Reads the values once and, on several devices, communicates once."""
    x = values.astype(total.dtype)
    center = x[0, :, 0, 0] if expected_mean is None else expected_mean
    distance = x - per_image(center, len(x))
    weighted = distance if weights is None else distance * weights.reshape(-1, 1, 1, 1)
    first, second = sum_pair(weighted, weighted * distance, groups=len(total))
    return mean_and_variance(first, second, total, center)


def mean_and_variance(first, second, total, center) -> tuple[jax.Array, jax.Array]:
    """Returns mean and variance of `total` values from sums of x - center and of its square."""
    mean = first / total
    return center + mean, jnp.maximum(second / total - jnp.square(mean), 0)


def _mean_and_variance_forward(values, weights, total, expected_mean):
    mean, var = _mean_and_variance(values, weights, total, expected_mean)
    return (mean, var), (values, weights, total, expected_mean, mean)


def _mean_and_variance_backward(residuals, gradients):
    values, weights, total, expected_mean, mean = residuals
    of_mean, of_var = (per_image(g / total, len(values)) for g in gradients)
    if weights is not None:
        of_mean, of_var = (weights.reshape(-1, 1, 1, 1) * g for g in (of_mean, of_var))
    gradient = of_mean + 2 * of_var * (values - per_image(mean, len(values)))
    nothing = jax.tree.map(jnp.zeros_like, (weights, total, expected_mean))
    return gradient.astype(values.dtype), *nothing


_mean_and_variance.defvjp(_mean_and_variance_forward, _mean_and_variance_backward)


def sum_pair(x: jax.Array, y: jax.Array, groups: int = 1) -> tuple[jax.Array, jax.Array]:
    """Returns the sums of two `[N, C, H, W]` over positions and the images of each group.

    Both sums are `[groups, C]`. On a GPU one reduction computes both and reads their inputs once.
    On a TPU two reductions are faster.
    """
    axes = (0, 2, 3) if groups == 1 else (2, 3)

    def together(x, y):
        zero = jnp.zeros((), x.dtype)
        return tuple(
            lax.reduce((x, y), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), axes)
        )

    def separately(x, y):
        return x.sum(axes), y.sum(axes)

    sums = lax.platform_dependent(x, y, cuda=together, default=separately)
    return tuple(s.reshape(groups, -1, x.shape[1]).sum(1) for s in sums)


def per_image(of_channels: jax.Array, images: int) -> jax.Array:
    """Reshapes `[groups, C]` or `[C]` so that it broadcasts to maps `[images, C, H, W]`."""
    if of_channels.ndim == 2 and len(of_channels) > 1:
        of_channels = jnp.repeat(of_channels, images // len(of_channels), axis=0)
    return of_channels[..., None, None]
