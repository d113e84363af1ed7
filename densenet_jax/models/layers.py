"""Layers that the families share. Feature maps are `[batch, height, width, channels]`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

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
    # In NumPy, as XLA would compile one program per shape: a minute for a deep net. The callback
    # serves `jax.eval_shape` and `jax.jit`, and draws the same numbers.
    def call(data):
        return sample(np.random.Generator(np.random.PCG64(np.asarray(data)))).astype(dtype)

    data = jax.random.key_data(key)
    if isinstance(data, jax.core.Tracer):
        return jax.pure_callback(call, jax.ShapeDtypeStruct(shape, dtype), data)
    return jnp.asarray(call(data))


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
    """Statistics of `[N, H, W, C]` values over the images that `mask` (`[N]`) marks with 1.

    In two passes, as one pass of squares loses all digits of a variance far below the mean. Under
    `jit` with a sharded batch they are those of the global batch.
    """
    x = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    count = jnp.asarray(values.size // values.shape[-1], x.dtype)
    weights = None
    if mask is not None:
        weights = mask.astype(x.dtype)[:, None, None, None]
        count = mask.sum(dtype=x.dtype) * (values.shape[1] * values.shape[2])

    def mean(y):
        return (y if weights is None else y * weights).sum((0, 1, 2)) / count

    @jax.checkpoint  # Keeps the values, which are kept anyway, instead of their deviations.
    def variance(x, center):
        return mean(jnp.square(x - center))

    mu = mean(x)
    # The variance does not change to first order in its centre: no gradient flows through that.
    return Statistics(mu, variance(x, lax.stop_gradient(mu)), count)


def concatenate_statistics(maps: list[FeatureMap]) -> Statistics | None:
    """The statistics of the concatenation of `maps` along channels."""
    if maps[0].statistics is None:
        return None
    means, variances, counts = zip(*(m.statistics for m in maps), strict=True)
    return Statistics(jnp.concatenate(means), jnp.concatenate(variances), counts[0])


class BatchNorm(nnx.Module):
    """What of batch normalisation belongs to a reader: scale, shift and running statistics."""

    def __init__(self, features: int, *, param_dtype=jnp.float32):
        self.scale = nnx.Param(jnp.ones(features, param_dtype))
        self.bias = nnx.Param(jnp.zeros(features, param_dtype))
        self.mean = nnx.BatchStat(jnp.zeros(features, param_dtype))
        self.var = nnx.BatchStat(jnp.ones(features, param_dtype))

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
    a, b = affine
    return nnx.relu(values.astype(a.dtype) * a + b).astype(values.dtype)


class Conv(nnx.Module):
    """A convolution without bias, zero-padded: `[N, H, W, in]` to `[N, H/stride, W/stride, out]`.

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

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...].astype(x.dtype)
        if kernel.shape[0] == self.stride == 1:
            return pointwise(x, kernel)
        return convolve(x, kernel, self.stride)


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """The convolution of `[N, H, W, in]` with an odd HWIO kernel, zero-padded."""
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@jax.custom_vjp
def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolve` with a 1x1 kernel; on CPU as matrix products, which are faster there.

    The kernel's gradient is summed image by image: XLA's CPU backend is slow to contract over
    batch, height and width at once.
    """
    return lax.platform_dependent(
        x, kernel, cpu=lambda x, k: jnp.einsum("nhwi,io->nhwo", x, k[0, 0]), default=convolve
    )


def _pointwise_forward(x, kernel):
    return pointwise(x, kernel), (x, kernel)


def _pointwise_backward(residuals, g):
    def products(x, kernel, g):
        grad_kernel = jnp.einsum("nhwi,nhwo->nio", x, g).sum(0)
        return jnp.einsum("nhwo,io->nhwi", g, kernel[0, 0]), grad_kernel[None, None]

    def convolutions(x, kernel, g):
        return jax.vjp(convolve, x, kernel)[1](g)

    return lax.platform_dependent(*residuals, g, cpu=products, default=convolutions)


pointwise.defvjp(_pointwise_forward, _pointwise_backward)
