"""Layers that families share. Feature maps are `[batch, channels, height, width]`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from densenet_jax.models.convolution import convolve
from densenet_jax.models.initializers import Initializer, constant, he_normal, torch_linear
from densenet_jax.models.statistics import Statistics, batch_statistics, per_image, sum_pair

# PyTorch's BatchNorm constants. PyTorch's momentum is the weight of the *new* value.
MOMENTUM = 0.1
EPSILON = 1e-5

# (a, b), each [groups, channels] or [channels]: BatchNorm as the map a x + b.
ScaleShift = tuple[jax.Array, jax.Array]


class FeatureMap(NamedTuple):
    """Feature maps together with their batch statistics, which are None outside training.

    Statistics belong to feature maps, not to their readers. They are computed once, when the maps
    are produced, however many layers normalise the maps (compare Jung et al., arXiv 1807.01702).
    """

    values: jax.Array
    statistics: Statistics | None


class Mode(NamedTuple):
    """The mode of a forward pass.

    Attributes:
      train: normalise with the batch's statistics, update the running statistics, drop out.
      mask: `[batch]`, 1 for images that count in the statistics and 0 for padding; None: all count.
      key: random key of the dropout masks; None: no dropout.
      group_size: number of successive images that share their statistics; 0: all of the batch.
      expected_mean: approximate mean of the maps that a layer is about to give; None: unknown.
      part: (number, count) if the images are one of `count` equal parts of a batch, whose dropout
        masks they share; None: they are a whole batch.
    """

    train: bool = False
    mask: jax.Array | None = None
    key: jax.Array | None = None
    group_size: int = 0
    expected_mean: jax.Array | None = None
    part: tuple[jax.Array, int] | None = None

    def fold(self, index: int) -> "Mode":
        """Returns the mode of part number `index`, with separate dropout masks."""
        return self if self.key is None else self._replace(key=jax.random.fold_in(self.key, index))

    def with_statistics(self, values: jax.Array, expected_mean: jax.Array | None) -> FeatureMap:
        """Returns `values` with their batch statistics, in training; see `batch_statistics`."""
        if not self.train:
            return FeatureMap(values, None)
        statistics = batch_statistics(values, self.mask, self.group_size, expected_mean)
        return FeatureMap(values, statistics)

    def dropout(self, values: jax.Array, rate: float) -> jax.Array:
        """Sets a share `rate` of `values` to 0 and scales up the rest, in training."""
        return self._drop(values, rate, values.shape)

    def drop_images(self, values: jax.Array, rate: float) -> jax.Array:
        """Drops whole images of `[N, ...]`: stochastic depth, image by image."""
        return self._drop(values, rate, (values.shape[0], *(1,) * (values.ndim - 1)))

    def _drop(self, values: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
        if not (self.train and rate):
            return values
        assert self.key is not None, "a network that drops values has rngs"
        number, count = self.part or (0, 1)
        keep = jax.random.bernoulli(self.key, 1 - rate, (count * shape[0], *shape[1:]))
        if self.part:
            keep = lax.dynamic_slice_in_dim(keep, number * shape[0], shape[0])
        return jnp.where(keep, values / (1 - rate), jnp.zeros_like(values))


def concatenate_statistics(maps: list[FeatureMap]) -> Statistics | None:
    """Returns the statistics of the concatenation of `maps` along channels."""
    parts = [m.statistics for m in maps if m.statistics is not None]
    if not parts:
        return None
    mean = jnp.concatenate([part.mean for part in parts], axis=-1)
    var = jnp.concatenate([part.var for part in parts], axis=-1)
    return Statistics(mean, var, parts[0].size)


class BatchNorm(nnx.Module):
    """Batch normalisation: scale, shift and running statistics of one reader of feature maps.

    With `learned=False` there are no scale and shift. If `frozen`, training normalises by the
    running statistics, as evaluation does, and leaves them as they are.
    """

    frozen = False

    def __init__(
        self, features: int, *, param_dtype: DTypeLike = jnp.float32, learned: bool = True
    ):
        # Separate arrays, because training donates them.
        self.scale = nnx.Param(constant(1, features, param_dtype)) if learned else None
        self.bias = nnx.Param(constant(0, features, param_dtype)) if learned else None
        self.mean = nnx.BatchStat(constant(0, features, param_dtype))
        self.var = nnx.BatchStat(constant(1, features, param_dtype))

    def __call__(self, values: jax.Array, mode: Mode, relu: bool = True) -> jax.Array:
        """Returns normalised `[N, features, H, W]`, rectified by default.

        In training updates the running statistics. Dense layers, whose readers share statistics,
        call `scale_shift` and `update_running` instead.
        """
        statistics = mode.with_statistics(values, self.mean[...]).statistics
        self.update_running(statistics)
        return (normalize_relu if relu else normalize)(values, self.scale_shift(statistics))

    def scale_shift(self, statistics: Statistics | None) -> ScaleShift:
        """Returns `(a, b)` such that `a x + b` is the normalised x; each `[groups, features]`.

        With `statistics` None, or if this BatchNorm is frozen, the running statistics normalise; a
        and b are then `[features]`.
        """
        if statistics is None or self.frozen:
            mean, var = self.mean[...], self.var[...]
        else:
            mean, var = statistics.mean, statistics.var
        if self.scale is None or self.bias is None:
            return scale_shift(mean, var, 1, 0)
        return scale_shift(mean, var, self.scale[...], self.bias[...])

    def update_running(self, statistics: Statistics | None) -> None:
        """Moves the running statistics towards a batch's; None leaves them as they are.

        The running variance averages unbiased estimates. The statistics of several groups are
        averaged, each weighted by its number of images.
        """
        if statistics is None or self.frozen:
            return
        mean, var, count = lax.stop_gradient(statistics)
        share = count / count.sum()
        mean = (share * mean).sum(0)
        unbiased = (share * var * (count / jnp.maximum(count - 1, 1))).sum(0)
        self.mean[...] += MOMENTUM * (mean - self.mean[...]).astype(self.mean.dtype)
        self.var[...] += MOMENTUM * (unbiased - self.var[...]).astype(self.var.dtype)


def scale_shift(mean, var, scale, bias) -> ScaleShift:
    """Returns `(a, b)` such that `a x + b` normalises x, then scales it and adds the bias."""
    a = lax.rsqrt(var + EPSILON) * scale
    return a, bias - mean * a


def normalize(values: jax.Array, scale_shift: ScaleShift) -> jax.Array:
    """Returns a x + b, computed in the type of a and b, in the type of `values`."""
    a, b = (per_image(c, values.shape[0]) for c in scale_shift)
    return (values.astype(a.dtype) * a + b).astype(values.dtype)


@jax.custom_vjp
def normalize_relu(values: jax.Array, scale_shift: ScaleShift) -> jax.Array:
    """Returns ReLU(a x + b), computed in the type of a and b, in the type of `values`.

    On a GPU the derivative reads the values and the gradient once. XLA's own derivative would
    compute the two sums over positions in separate kernels, one of which writes the summands to
    memory.
    """
    return _normalize_relu(values, scale_shift)


def _normalize_relu(values, scale_shift):
    a, b = (per_image(c, values.shape[0]) for c in scale_shift)
    return relu(values.astype(a.dtype) * a + b).astype(values.dtype)


def _normalize_relu_backward(residuals, gradient):
    def plain(values, scale_shift, gradient):
        return jax.vjp(_normalize_relu, values, scale_shift)[1](gradient)

    return lax.platform_dependent(*residuals, gradient, cuda=_both_sums_at_once, default=plain)


def _both_sums_at_once(values, scale_shift, gradient):
    scale, shift = scale_shift
    a, b = (per_image(c, values.shape[0]) for c in scale_shift)
    x = values.astype(a.dtype)
    masked = jnp.where(x * a + b <= 0, 0, gradient.astype(a.dtype))
    of_scale, of_shift = sum_pair(masked * x, masked, groups=scale.size // x.shape[1])
    of_scale_shift = of_scale.reshape(scale.shape), of_shift.reshape(shift.shape)
    return (masked * a).astype(values.dtype), of_scale_shift


normalize_relu.defvjp(
    lambda values, scale_shift: (_normalize_relu(values, scale_shift), (values, scale_shift)),
    _normalize_relu_backward,
)


def relu(x: jax.Array) -> jax.Array:
    """Returns x where it is positive or NaN, else 0.

    The gradient of a maximum would cost XLA one more pass.
    """
    return jnp.where(x <= 0, np.zeros((), x.dtype), x)


def global_average(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Returns means over positions, `[N, C]`, in `dtype`."""
    return x.mean((2, 3), dtype=dtype)


class Conv(nnx.Module):
    """A convolution: `[N, in, H, W]` to `[N, out, H/stride, W/stride]`; see `convolve`.

    Computes in the type of its input. With `groups`, each group of channels has a separate kernel.
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
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, kernel_size, in_features // groups, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(constant(0, out_features, param_dtype)) if bias else None
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        y = convolve(x, self.kernel[...].astype(x.dtype), self.stride)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)[:, None, None]


def linear(
    in_features: int,
    out_features: int,
    *,
    bias: bool = True,
    kernel_init: Initializer = torch_linear,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """Builds a linear layer as Torch initialises it: weights U(+-1/sqrt(in)), bias 0."""
    layer = nnx.Linear(
        in_features,
        out_features,
        use_bias=False,
        kernel_init=kernel_init,
        param_dtype=param_dtype,
        rngs=rngs,
    )
    if bias:
        # nnx.Linear would draw a key for these zeros, which would change all later random numbers.
        layer.bias, layer.use_bias = nnx.Param(constant(0, out_features, param_dtype)), True
    return layer


class Identity(nnx.Module):
    """Returns its input: the classifier of a network without classes."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


def classifier(features: int, num_classes: int, **settings: Any) -> Any:
    """Builds the last layer of a network: linear, or the identity if there are no classes."""
    return linear(features, num_classes, **settings) if num_classes else Identity()


class SqueezeExcitation(nnx.Module):
    """Weighs each feature map by a function of all maps' averages (Hu et al., CVPR 2018)."""

    def __init__(
        self, features: int, hidden: int, *, param_dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ):
        self.squeeze = linear(features, hidden, bias=False, param_dtype=param_dtype, rngs=rngs)
        self.excite = linear(hidden, features, bias=False, param_dtype=param_dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = self.squeeze.kernel.dtype
        weights = nnx.sigmoid(self.excite(relu(self.squeeze(global_average(x, wide)))))
        return x * weights[..., None, None].astype(x.dtype)
