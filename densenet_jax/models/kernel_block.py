"""A dense block in one buffer, computed by the GPU kernels of kernels.py.

The plain form in densenet.py writes each layer's concatenation, its activation and the gradients
of both to memory. Here all maps of a block are columns of one buffer `[positions, channels]`. A
kernel reads the maps of a layer once, and the backward pass adds to their gradients in place. For
the backward pass the block keeps what `remat="concat"` keeps: the maps and the outputs of 1x1
convolutions. Results differ from those of the plain form by rounding alone.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from densenet_jax.errors import InputError
from densenet_jax.models.densenet import DenseLayer, DenseNet
from densenet_jax.models.kernels import (
    Images,
    Normalization,
    Source,
    Target,
    convolution_gradients,
    normalize_convolve,
)
from densenet_jax.models.layers import BatchNorm, Conv, FeatureMap, Mode, scale_shift
from densenet_jax.models.statistics import Statistics, mean_and_variance


class KernelDenseNet(DenseNet):
    """A DenseNet whose dense blocks train with kernels. Evaluation uses the plain form."""

    def block(self, b: int, maps: list[FeatureMap], mode: Mode) -> list[FeatureMap]:
        [(values, statistics)] = maps
        if statistics is None:
            return super().block(b, maps, mode)
        layers, (images, _, *size) = self.blocks[b], values.shape
        modes = [self.layer_mode(mode, b, number) for number in range(1, len(layers) + 1)]
        parameters = [_parameters(*pair, values.dtype) for pair in zip(layers, modes, strict=True)]
        weights = jnp.ones(images) if mode.mask is None else mode.mask
        weights = weights.astype(jnp.float32).reshape(-1)
        # Padding alone is normalised by its own statistics, which keeps its values finite.
        weights = jnp.where(weights.sum() > 0, weights, 1)
        moments = Moments(statistics.mean[0], statistics.var[0])
        values, moments, inner = _block(tuple(size), values, moments, parameters, weights)
        for number, layer in enumerate(layers):
            read = moments.part(0, layer.norm1.mean.shape[0])
            layer.norm1.update_running(read.statistics(statistics.size))
            if inner:
                layer.norm2.update_running(inner[number].statistics(statistics.size))
        return [FeatureMap(values, moments.statistics(statistics.size))]


class Moments(NamedTuple):
    """Mean and variance of each channel, `[channels]` float32."""

    mean: jax.Array
    var: jax.Array

    def part(self, first: int, last: int) -> "Moments":
        """Returns the moments of the channels from `first` to before `last`."""
        return Moments(self.mean[first:last], self.var[first:last])

    def statistics(self, size: jax.Array) -> Statistics:
        return Statistics(self.mean[None], self.var[None], size)


class Step(NamedTuple):
    """The parameters of one BN-ReLU-convolution.

    Attributes:
      scale, bias: `[channels]`, of the normalisation.
      kernel: `[outputs, taps, channels]`, in the type of the feature maps.
      center: `[outputs]`, approximate means of the output.
    """

    scale: jax.Array
    bias: jax.Array
    kernel: jax.Array
    center: jax.Array


class Layer(NamedTuple):
    """The parameters of a layer: of the step to its bottleneck, if any, and to its new maps."""

    inner: Step | None
    last: Step


def _parameters(layer: DenseLayer, mode: Mode, dtype) -> Layer:
    def step(norm: BatchNorm, conv: Conv, center) -> Step:
        kernel = conv.kernel[...].astype(dtype).transpose(3, 0, 1, 2)
        kernel = kernel.reshape(len(kernel), -1, kernel.shape[3])
        assert norm.scale is not None and norm.bias is not None, "dense layers learn both"
        return Step(norm.scale[...], norm.bias[...], kernel, lax.stop_gradient(center))

    if not layer.config.bottleneck:
        return Layer(None, step(layer.norm1, layer.conv1, mode.expected_mean))
    inner = step(layer.norm1, layer.conv1, layer.norm2.mean[...])
    return Layer(inner, step(layer.norm2, layer.conv2, mode.expected_mean))


class _Batch(NamedTuple):
    """The part of a batch on one device.

    Attributes:
      images: the images of this device.
      axes: names of the mesh axes that divide the batch.
      total: number of positions that count in batch statistics, on all devices.
    """

    images: Images
    axes: tuple[str, ...]
    total: jax.Array

    def sum(self, tree):
        """Adds up the values of all devices."""
        return lax.psum(tree, self.axes) if self.axes else tree

    def convolve(
        self, maps: jax.Array, moments: Moments, step: Step, target: Target | None
    ) -> tuple[jax.Array, Moments]:
        """Returns the array with the output of a step, and the moments of the output."""
        source = Source(maps, *moments, step.scale, step.bias)
        values, sums = normalize_convolve(source, step.kernel, self.images, step.center, target)
        first, second = self.sum(sums)
        return values, Moments(*mean_and_variance(first, second, self.total, step.center))

    def normalization(self, maps: jax.Array, moments: Moments, of: Moments) -> Normalization:
        """Returns the derivative through the moments of `maps`, given the gradients of both."""
        return Normalization(maps, moments.mean, of.mean / self.total, 2 * of.var / self.total)

    def add(self, gradient: jax.Array, normalization: Normalization) -> jax.Array:
        """Adds a derivative through moments to a gradient of maps."""
        maps, mean, of_mean, of_variance = normalization
        weights = jnp.repeat(self.images.weights, self.images.height * self.images.width)[:, None]
        through = weights * (of_mean + of_variance * (maps.astype(of_mean.dtype) - mean))
        return (gradient.astype(of_mean.dtype) + through).astype(gradient.dtype)

    def gradients(
        self,
        maps: jax.Array,
        moments: Moments,
        step: Step,
        gradient: jax.Array,
        normalization: Normalization | None,
        earlier: jax.Array | None,
    ) -> tuple[jax.Array, Moments, Step]:
        """Returns the gradients of the maps, of their moments and of the parameters of a step.

        For the other arguments see `convolution_gradients`.
        """
        norm = *moments, step.scale, step.bias
        of_maps, *of_parameters = convolution_gradients(
            Source(maps, *norm), step.kernel, self.images, gradient, normalization, earlier
        )
        _, backward = jax.vjp(scale_shift, *norm)
        of_kernel, of_affine = self.sum(of_parameters)
        *of_moments, of_scale, of_bias = backward(tuple(of_affine))
        of_center = jnp.zeros_like(step.center)
        of_step = Step(of_scale, of_bias, of_kernel.astype(step.kernel.dtype), of_center)
        return of_maps, Moments(*of_moments), of_step


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _block(size, values, moments, layers, weights):
    """Returns the maps of a block, their moments, and the moments inside each bottleneck.

    Args:
      size: height and width of the maps.
      values, moments: the block's input `[N, C, H, W]`, and its moments.
      layers: the parameters of each layer.
      weights: `[N]`, weights of the images in the statistics.
    """
    return _block_forward(size, values, moments, layers, weights)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _block_forward(size, values, moments, layers, weights):
    def forward(axes, values, weights, total, moments, layers):
        batch = _Batch(Images(weights, *size), axes, total)
        new = sum(len(layer.last.kernel) for layer in layers)
        buffer = jnp.pad(_rows(values), ((0, 0), (0, new)))
        bottlenecks, inner = [], []
        for layer in layers:
            read, channels = (buffer, moments), len(moments.mean)
            if layer.inner:
                read = batch.convolve(*read, layer.inner, None)
                bottlenecks.append(read[0])
                inner.append(read[1])
            buffer, added = batch.convolve(*read, layer.last, Target(buffer, channels))
            moments = Moments(*map(jnp.append, moments, added))
        return (buffer, bottlenecks), (moments, inner)

    total = weights.sum() * size[0] * size[1]
    (buffer, bottlenecks), (moments, inner) = _on_all_devices(
        forward, (values, weights), (total, moments, layers)
    )
    kept = buffer, bottlenecks, weights, total, moments, inner, layers
    return (_maps(buffer, size), moments, inner), kept


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _block_backward(size, kept, gradients):
    buffer, bottlenecks, weights, total, moments, inner, layers = kept
    of_values, of_moments, _ = gradients

    def backward(axes, gradient, buffer, bottlenecks, weights, *replicated):
        total, of_moments, moments, inner, layers = replicated
        batch = _Batch(Images(weights, *size), axes, total)
        gradient, of_layers = _rows(gradient), []
        for number in reversed(range(len(layers))):
            layer, last = layers[number], len(of_moments.mean)
            first = last - len(layer.last.kernel)  # The layer adds the maps from here to `last`.
            of_new = batch.add(
                gradient[:, first:last],
                batch.normalization(
                    buffer[:, first:last], moments.part(first, last), of_moments.part(first, last)
                ),
            )
            read = buffer, moments.part(0, first)
            if layer.inner:
                bottleneck = bottlenecks[number], inner[number]
                of_inner, through, of_last = batch.gradients(
                    *bottleneck, layer.last, of_new, None, None
                )
                normalization = batch.normalization(*bottleneck, through)
                gradient, through, of_step = batch.gradients(
                    *read, layer.inner, of_inner, normalization, gradient
                )
                of_layers.append(Layer(of_step, of_last))
            else:
                gradient, through, of_last = batch.gradients(
                    *read, layer.last, of_new, None, gradient
                )
                of_layers.append(Layer(None, of_last))
            of_moments = jax.tree.map(jnp.add, of_moments.part(0, first), through)
        return gradient[:, : len(of_moments.mean)], (of_moments, of_layers[::-1])

    of_input, (of_moments, of_layers) = _on_all_devices(
        backward,
        (of_values, buffer, bottlenecks, weights),
        (total, of_moments, moments, inner, layers),
    )
    return _maps(of_input, size), of_moments, of_layers, jnp.zeros_like(weights)


def _refuse(*_):
    raise InputError(
        "dense blocks in kernels have first derivatives only: set block to 'xla' for derivatives "
        "of gradients"
    )


_block.defvjp(_block_forward, _block_backward)
_block_forward.defvjp(_refuse, _refuse)
_block_backward.defvjp(_refuse, _refuse)


def _on_all_devices(function: Callable, sharded: tuple, replicated: tuple):
    """Returns `function(axes, *sharded, *replicated)`, a pair of sharded and replicated arrays.

    The devices of the current mesh compute it, each for a part of the batch; `axes` are the names
    of the axes that divide it. Axes of a surrounding `shard_map` already divide the batch. Without
    a mesh, or with a batch that its devices cannot share equally, there are no axes.

    Args:
      sharded: arrays whose first dimension is a multiple of the number of images; the last one has
        exactly the images.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    axes = tuple(name for name, kind in kinds if kind == AxisType.Auto)
    devices = math.prod(mesh.shape[name] for name in axes)
    if devices == 1 or len(sharded[-1]) % devices:
        axes = ()
    function = functools.partial(function, axes)
    if axes:
        batch, same = PartitionSpec(axes), PartitionSpec()
        specs = (batch,) * len(sharded) + (same,) * len(replicated)
        function = jax.shard_map(
            function,
            in_specs=specs,
            out_specs=(batch, same),
            axis_names=set(axes),
            check_vma=False,
        )
    return function(*sharded, *replicated)


def _rows(maps: jax.Array) -> jax.Array:
    """Transposes `[N, C, H, W]` to `[N H W, C]`."""
    return maps.transpose(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _maps(rows: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Transposes `[N H W, C]` to `[N, C, H, W]`."""
    return rows.reshape(-1, *size, rows.shape[1]).transpose(0, 3, 1, 2)
