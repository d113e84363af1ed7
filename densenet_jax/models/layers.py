"""Layers that the families share. Feature maps are `[batch, channels, height, width]`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from densenet_jax.models.convolution import convolve

# PyTorch's BatchNorm constants. PyTorch's momentum is the weight of the *new* value.
MOMENTUM = 0.1
EPSILON = 1e-5

# (a, b), each [channels]: the map a x + b.
Affine = tuple[jax.Array, jax.Array]


def he_normal(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """The authors' initialisation of an HWIO kernel: He with fan-out, N(0, sqrt(2 / (H W O)))."""
    height, width, _, out = shape
    return _draw(
        key, shape, dtype, lambda rng: rng.normal(0, (2 / (height * width * out)) ** 0.5, shape)
    )


def torch_linear(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """Torch's default for an `[in, out]` linear kernel, which the authors keep: U(+-1/sqrt(in))."""
    limit = shape[0] ** -0.5
    return _draw(key, shape, dtype, lambda rng: rng.uniform(-limit, limit, shape))


def _draw(key: jax.Array, shape, dtype, sample) -> jax.Array:
    # In NumPy, as XLA would compile one program per shape: a minute for a deep net. So would
    # `jnp.asarray`. The callback serves `jax.eval_shape` and `jax.jit`, and draws the same numbers.
    def call(data):
        return sample(np.random.Generator(np.random.PCG64(np.asarray(data)))).astype(dtype)

    data = jax.random.key_data(key)
    if isinstance(data, jax.core.Tracer):
        return jax.pure_callback(call, jax.ShapeDtypeStruct(shape, dtype), data)
    return jax.device_put(call(data))


class Statistics(NamedTuple):
    """Mean and biased variance of each channel (`[channels]`); how many values they are over."""

    mean: jax.Array
    var: jax.Array
    count: jax.Array


class FeatureMap(NamedTuple):
    """Feature maps together with their batch statistics, which are None outside training.

    Statistics belong to a feature map, not to its readers: each map's are computed once, when it is
    produced, however many layers normalise it later (compare Jung et al., arXiv 1807.01702).
    """

    values: jax.Array
    statistics: Statistics | None


class Mode(NamedTuple):
    """How a forward pass is run.

    Attributes:
      train: normalise with the batch's statistics, update the running ones, drop out.
      mask: `[batch]`, 1 for images that count in the statistics and 0 for padding; None: all count.
      key: random key of this pass's dropout masks; None: no dropout.
    """

    train: bool = False
    mask: jax.Array | None = None
    key: jax.Array | None = None

    def fold(self, index: int) -> "Mode":
        """The mode of part number `index`, with dropout masks of its own."""
        return self if self.key is None else self._replace(key=jax.random.fold_in(self.key, index))

    def observe(self, values: jax.Array) -> FeatureMap:
        """Attaches batch statistics to `values`, in training."""
        return FeatureMap(values, batch_statistics(values, self.mask) if self.train else None)

    def dropout(self, values: jax.Array, rate: float) -> jax.Array:
        if not (self.train and rate):
            return values
        keep = jax.random.bernoulli(self.key, 1 - rate, values.shape)
        return jnp.where(keep, values / (1 - rate), jnp.zeros_like(values))


def batch_statistics(values: jax.Array, mask: jax.Array | None = None) -> Statistics:
    """Statistics of `[N, C, H, W]` values over the images that `mask` (`[N]`) marks with 1.

    Computed in float32 at least. Under `jit` with a sharded batch they are those of the global
    batch.
    """
    images, _, height, width = values.shape
    wide = jnp.promote_types(values.dtype, jnp.float32)
    weights = jnp.ones((images, 1), wide) if mask is None else mask.astype(wide)[:, None]
    count = weights.sum() * (height * width)
    return Statistics(*_mean_and_variance(values, weights, count), count)


@jax.custom_vjp
def _mean_and_variance(
    values: jax.Array, weights: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Each channel's mean and variance, images weighted by `weights` (`[N, 1]`).

    Keeps the values for the backward pass, which are kept anyway, and no wider copy.
    """
    x = values.astype(weights.dtype)

    def mean(y):
        # Image by image first: a mask on whole maps would be one more pass over them.
        return (weights * y.sum((2, 3))).sum(0) / count

    center = mean(x)
    return center, mean(jnp.square(x - center[:, None, None]))


def _mean_and_variance_forward(values, weights, count):
    mean, var = _mean_and_variance(values, weights, count)
    return (mean, var), (values, weights, count, mean)


def _mean_and_variance_backward(residuals, gradients):
    values, weights, count, mean = residuals
    of_mean, of_var = ((weights * g / count)[..., None, None] for g in gradients)
    gradient = of_mean + 2 * of_var * (values - mean[:, None, None])
    return gradient.astype(values.dtype), jnp.zeros_like(weights), jnp.zeros_like(count)


_mean_and_variance.defvjp(_mean_and_variance_forward, _mean_and_variance_backward)


def concatenate_statistics(maps: list[FeatureMap]) -> Statistics | None:
    """The statistics of the concatenation of `maps` along channels."""
    if maps[0].statistics is None:
        return None
    means, variances, counts = zip(*(m.statistics for m in maps), strict=True)
    return Statistics(jnp.concatenate(means), jnp.concatenate(variances), counts[0])


class BatchNorm(nnx.Module):
    """What of batch normalisation belongs to a reader: scale, shift and running statistics."""

    def __init__(self, features: int, *, param_dtype=jnp.float32):
        # Made by NumPy, as kernels are: XLA would compile a program for each width.
        zeros, ones = np.zeros(features, param_dtype), np.ones(features, param_dtype)
        self.scale = nnx.Param(jax.device_put(ones))
        self.bias = nnx.Param(jax.device_put(zeros))
        self.mean = nnx.BatchStat(jax.device_put(zeros))
        self.var = nnx.BatchStat(jax.device_put(ones))

    def affine(self, statistics: Statistics | None) -> Affine:
        """`(a, b)`, each `[features]`, such that `a * x + b` is the normalised x.

        With `statistics` None, normalises by the running ones.
        """
        mean, var = (self.mean[...], self.var[...]) if statistics is None else statistics[:2]
        a = self.scale[...] * lax.rsqrt(var + EPSILON)
        return a, self.bias[...] - mean * a

    def track(self, statistics: Statistics | None) -> None:
        """Moves the running statistics towards a batch's; the variance by its unbiased estimate."""
        if statistics is None:
            return
        mean, var, count = lax.stop_gradient(statistics)
        unbiased = var * (count / jnp.maximum(count - 1, 1))
        self.mean[...] += MOMENTUM * (mean - self.mean[...]).astype(self.mean.dtype)
        self.var[...] += MOMENTUM * (unbiased - self.var[...]).astype(self.var.dtype)


def normalize_relu(values: jax.Array, affine: Affine) -> jax.Array:
    """ReLU(a x + b), computed in the affine map's precision, returned in that of `values`."""
    a, b = (c[:, None, None] for c in affine)
    x = values.astype(a.dtype) * a + b
    # Not a maximum, whose gradient costs XLA one more pass; a NaN stays one.
    return jnp.where(x <= 0, 0, x).astype(values.dtype)


def average_pool(x: jax.Array) -> jax.Array:
    """Means of 2x2 positions: `[N, C, H, W]` to `[N, C, H/2, W/2]`, an odd last one left out."""
    window = (1, 1, 2, 2)
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, window, window, "VALID") / 4


def max_pool(x: jax.Array) -> jax.Array:
    """Maxima of 3x3 positions around every second one: halves height and width, rounding up."""
    least = np.array(-np.inf, x.dtype)
    # Padded beforehand, as converters to ONNX pass over the padding of a pooling.
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=least)
    return lax.reduce_window(x, least, lax.max, (1, 1, 3, 3), (1, 1, 2, 2), "VALID")


class Conv(nnx.Module):
    """A convolution without bias, zero-padded: `[N, in, H, W]` to `[N, out, H/stride, W/stride]`.

    Computes in the type of its input.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        stride: int = 1,
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, kernel_size, in_features, out_features)
        self.kernel = nnx.Param(he_normal(rngs.params(), shape, param_dtype))
        self.stride = stride

    def macs(self, height: int, width: int) -> int:
        """Multiply-adds for an output of `height` x `width`."""
        return self.kernel.size * height * width

    def __call__(self, x: jax.Array) -> jax.Array:
        return convolve(x, self.kernel[...].astype(x.dtype), self.stride)
