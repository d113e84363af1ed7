"""Layers that the families share. Feature maps are `[batch, channels, height, width]`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from densenet_jax.errors import InputError
from densenet_jax.models.convolution import convolve
from densenet_jax.models.initializers import Initializer, constant, he_normal, torch_linear
from densenet_jax.models.statistics import Statistics, batch_statistics, per_image, sum_pair

# PyTorch's BatchNorm constants. PyTorch's momentum is the weight of the *new* value.
MOMENTUM = 0.1
EPSILON = 1e-5

# (a, b), each [groups, channels] or [channels]: the map a x + b.
Affine = tuple[jax.Array, jax.Array]


class FeatureMap(NamedTuple):
    """Feature maps together with their batch statistics, which are None outside training.

    Statistics belong to a feature map, not to its readers: each map's are computed once, when it is
    produced, however many layers normalise it later (compare Jung et al., arXiv 1807.01702).
    `affine` is for maps that all readers normalise alike: it is applied by each, and they are kept
    as they are.
    """

    values: jax.Array
    statistics: Statistics | None
    affine: Affine | None = None

    def active(self) -> jax.Array:
        """What its readers read, if they normalise it alike; else the values."""
        return self.values if self.affine is None else normalize_relu(self.values, self.affine)


class Mode(NamedTuple):
    """How a forward pass is run.

    Attributes:
      train: normalise with the batch's statistics, update the running ones, drop out.
      mask: `[batch]`, 1 for images that count in the statistics and 0 for padding; None: all count.
      key: random key of what is dropped in this pass; None: nothing is.
      group_size: how many successive images share their statistics; 0: all of the batch.
    """

    train: bool = False
    mask: jax.Array | None = None
    key: jax.Array | None = None
    group_size: int = 0

    @classmethod
    def of(cls, model: nnx.Module, train: bool, mask: jax.Array | None = None) -> "Mode":
        """The mode of a pass through `model`, which has `rngs` if anything in it is random."""
        rngs = getattr(model, "rngs", None)
        key = rngs.dropout() if train and rngs else None
        return cls(train, mask, key, getattr(model.config, "bn_group_size", 0))

    def fold(self, index: int) -> "Mode":
        """The mode of part number `index`, with dropout masks of its own."""
        return self if self.key is None else self._replace(key=jax.random.fold_in(self.key, index))

    def observe(self, values: jax.Array, expected_mean: jax.Array | None = None) -> FeatureMap:
        """Attaches batch statistics to `values`, in training; see `batch_statistics`."""
        if not self.train:
            return FeatureMap(values, None)
        statistics = batch_statistics(values, self.mask, self.group_size, expected_mean)
        return FeatureMap(values, statistics)

    def dropout(self, values: jax.Array, rate: float) -> jax.Array:
        return self._drop(values, rate, values.shape)

    def drop_images(self, values: jax.Array, rate: float) -> jax.Array:
        """Leaves out whole images of `[N, ...]`: stochastic depth, image by image."""
        return self._drop(values, rate, (values.shape[0], *(1,) * (values.ndim - 1)))

    def _drop(self, values: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
        if not (self.train and rate):
            return values
        keep = jax.random.bernoulli(self.key, 1 - rate, shape)
        return jnp.where(keep, values / (1 - rate), jnp.zeros_like(values))


def concatenate_statistics(maps: list[FeatureMap]) -> Statistics | None:
    """The statistics of the concatenation of `maps` along channels."""
    if maps[0].statistics is None:
        return None
    means, variances, counts = zip(*(m.statistics for m in maps), strict=True)
    means, variances = (jnp.concatenate(parts, axis=-1) for parts in (means, variances))
    return Statistics(means, variances, counts[0])


class BatchNorm(nnx.Module):
    """Batch normalisation: scale, shift and running statistics of one reader of feature maps.

    `learned=False` leaves out scale and shift.
    """

    def __init__(self, features: int, *, param_dtype=jnp.float32, learned: bool = True):
        # Arrays of their own for each, as training gives them away.
        self.scale = nnx.Param(constant(1, features, param_dtype)) if learned else None
        self.bias = nnx.Param(constant(0, features, param_dtype)) if learned else None
        self.mean = nnx.BatchStat(constant(0, features, param_dtype))
        self.var = nnx.BatchStat(constant(1, features, param_dtype))

    def __call__(self, values: jax.Array, mode: Mode, relu: bool = True) -> jax.Array:
        """Normalised `[N, features, H, W]`, by default rectified; tracks statistics in training.

        Dense layers, whose readers share statistics, go through `affine` and `track` instead.
        """
        values, statistics, _ = mode.observe(values, self.mean[...])
        self.track(statistics)
        return (normalize_relu if relu else normalize)(values, self.affine(statistics))

    def affine(self, statistics: Statistics | None) -> Affine:
        """`(a, b)` such that `a * x + b` is the normalised x; each `[groups, features]`.

        With `statistics` None, normalises by the running ones; then each is `[features]`.
        """
        mean, var = (self.mean[...], self.var[...]) if statistics is None else statistics[:2]
        a = lax.rsqrt(var + EPSILON)
        if self.scale is None:
            return a, -mean * a
        a *= self.scale[...]
        return a, self.bias[...] - mean * a

    def track(self, statistics: Statistics | None) -> None:
        """Moves the running statistics towards a batch's; the variance by its unbiased estimate.

        Those of several groups are averaged, each counting by its images.
        """
        if statistics is None:
            return
        mean, var, count = lax.stop_gradient(statistics)
        share = count / count.sum()
        mean = (share * mean).sum(0)
        unbiased = (share * var * (count / jnp.maximum(count - 1, 1))).sum(0)
        self.mean[...] += MOMENTUM * (mean - self.mean[...]).astype(self.mean.dtype)
        self.var[...] += MOMENTUM * (unbiased - self.var[...]).astype(self.var.dtype)


def normalize(values: jax.Array, affine: Affine) -> jax.Array:
    """a x + b, computed in the affine map's precision, returned in that of `values`."""
    a, b = (per_image(c, values.shape[0]) for c in affine)
    return (values.astype(a.dtype) * a + b).astype(values.dtype)


@jax.custom_vjp
def normalize_relu(values: jax.Array, affine: Affine) -> jax.Array:
    """ReLU(a x + b), computed in the affine map's precision, returned in that of `values`.

    On a GPU its derivative reads the values and the gradient once. Left to itself, XLA computes the
    two sums over positions in separate kernels, one of which writes the summands to memory.
    """
    return _normalize_relu(values, affine)


def _normalize_relu(values, affine):
    a, b = (per_image(c, values.shape[0]) for c in affine)
    return relu(values.astype(a.dtype) * a + b).astype(values.dtype)


def _normalize_relu_backward(residuals, gradient):
    def plain(values, affine, gradient):
        return jax.vjp(_normalize_relu, values, affine)[1](gradient)

    return lax.platform_dependent(*residuals, gradient, cuda=_both_sums_at_once, default=plain)


def _both_sums_at_once(values, affine, gradient):
    a, b = (per_image(c, values.shape[0]) for c in affine)
    x = values.astype(a.dtype)
    masked = jnp.where(x * a + b <= 0, 0, gradient.astype(a.dtype))
    of_a, of_b = sum_pair(masked * x, masked, groups=affine[0].size // x.shape[1])
    of_affine = of_a.reshape(affine[0].shape), of_b.reshape(affine[1].shape)
    return (masked * a).astype(values.dtype), of_affine


normalize_relu.defvjp(
    lambda values, affine: (_normalize_relu(values, affine), (values, affine)),
    _normalize_relu_backward,
)


def relu(x: jax.Array) -> jax.Array:
    """Not a maximum, whose gradient costs XLA one more pass; a NaN stays one."""
    return jnp.where(x <= 0, np.zeros((), x.dtype), x)


def global_average(x: jax.Array, dtype) -> jax.Array:
    """Means over positions, `[N, C]`, in `dtype`."""
    return x.mean((2, 3), dtype=dtype)


def channels_first(images: jax.Array, dtype) -> jax.Array:
    """Images `[N, H, W, C]` as the feature maps that they are inside networks."""
    return images.astype(dtype).transpose(0, 3, 1, 2)


def channels_last(maps: jax.Array) -> jax.Array:
    """Feature maps as users of networks see them, `[N, H, W, C]`."""
    return maps.transpose(0, 2, 3, 1)


def check_images(images: jax.Array, channels: int, least: int) -> None:
    """Raises InputError unless `images` are `[N, H, W, channels]`, H and W at least `least`."""
    shape = images.shape
    if len(shape) != 4 or shape[-1] != channels or min(shape[1:3]) < least:
        raise InputError(
            f"images have shape {tuple(shape)}: expected [batch, height, width, {channels}] with "
            f"height and width of at least {least}."
        )


class Conv(nnx.Module):
    """A convolution: `[N, in, H, W]` to `[N, out, H/stride, W/stride]`; see `convolve`.

    Computes in the type of its input. With `groups`, each group of channels has its own kernel.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        kernel_init: Initializer = he_normal,
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, kernel_size, in_features // groups, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(constant(0, out_features, param_dtype)) if bias else None
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        y = convolve(x, self.kernel[...].astype(x.dtype), self.stride)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)[:, None, None]


class Linear(nnx.Module):
    """`[N, in]` to `[N, out]`, as Torch initialises it: weights U(+-1/sqrt(in)), bias 0."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        kernel_init: Initializer = torch_linear,
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        shape = (in_features, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(constant(0, out_features, param_dtype)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.kernel[...].astype(x.dtype)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class SqueezeExcitation(nnx.Module):
    """Weighs each feature map by what all of them are on average (Hu et al., CVPR 2018)."""

    def __init__(self, features: int, hidden: int, *, param_dtype=jnp.float32, rngs: nnx.Rngs):
        common = dict(bias=False, param_dtype=param_dtype, rngs=rngs)
        self.squeeze = Linear(features, hidden, **common)
        self.excite = Linear(hidden, features, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = self.squeeze.kernel.dtype
        weights = nnx.sigmoid(self.excite(relu(self.squeeze(global_average(x, wide)))))
        return x * weights[..., None, None].astype(x.dtype)
