"""A dense block in one buffer, computed by the GPU kernels of kernels.py.

The plain form in densenet.py writes each layer's concatenation, its activation and the gradients
of both to memory. Here all maps of a block are columns of one buffer `[positions, channels]`. A
kernel reads the maps of a layer once, and the backward pass adds to their gradients in place. For
the backward pass the block keeps what `remat="concat"` keeps: the maps and the outputs of 1x1
convolutions. Results differ from those of the plain form by rounding alone.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

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
        steps = [_steps(*pair, values.dtype) for pair in zip(layers, modes, strict=True)]
        weights = jnp.ones(images) if mode.mask is None else mode.mask
        weights = weights.astype(jnp.float32)
        # Padding alone is normalised by its own statistics, which keeps its values finite.
        weights = jnp.where(weights.sum() > 0, weights, 1)
        moments = Moments(statistics.mean[0], statistics.var[0])
        values, moments, inside = _block(tuple(size), values, moments, steps, weights)
        for layer, of_layer in zip(layers, inside, strict=True):
            channels = layer.norm1.mean.shape[0]
            layer.norm1.update_running(moments.first(channels).statistics(statistics.size))
            for of_bottleneck in of_layer:
                layer.norm2.update_running(of_bottleneck.statistics(statistics.size))
        return [FeatureMap(values, moments.statistics(statistics.size))]


class Moments(NamedTuple):
    """Mean and variance of each channel, `[channels]` float32."""

    mean: jax.Array
    var: jax.Array

    def first(self, channels: int) -> "Moments":
        return Moments(self.mean[:channels], self.var[:channels])

    def from_channel(self, channel: int) -> "Moments":
        return Moments(self.mean[channel:], self.var[channel:])

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


def _steps(layer: DenseLayer, mode: Mode, dtype) -> list[Step]:
    """Returns the step of a layer, or the two steps of a layer with a bottleneck."""

    def step(norm: BatchNorm, conv: Conv, center) -> Step:
        kernel = conv.kernel[...].astype(dtype).transpose(3, 0, 1, 2)
        kernel = kernel.reshape(len(kernel), -1, kernel.shape[3])
        assert norm.scale is not None and norm.bias is not None, "dense layers learn scale and bias"
        return Step(norm.scale[...], norm.bias[...], kernel, lax.stop_gradient(center))

    if not layer.config.bottleneck:
        return [step(layer.norm1, layer.conv1, mode.expected_mean)]
    inside = step(layer.norm1, layer.conv1, layer.norm2.mean[...])
    return [inside, step(layer.norm2, layer.conv2, mode.expected_mean)]


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

    def with_normalization(self, gradient: jax.Array, added: Normalization) -> jax.Array:
        """Returns the gradient of maps, with that through their moments."""
        maps, mean, of_mean, of_variance = added
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
      layers: the steps of each layer.
      weights: `[N]`, weights of the images in the statistics.
    """
    return _block_forward(size, values, moments, layers, weights)[0]


def _block_forward(size, values, moments, layers, weights):
    def forward(axes, values, weights, total, moments, layers):
        batch = _Batch(Images(weights, *size), axes, total)
        new = sum(len(steps[-1].kernel) for steps in layers)
        buffer = jnp.pad(_rows(values), ((0, 0), (0, new)))
        outputs, inside = [], []
        for *bottleneck, last in layers:
            channels = len(moments.mean)
            read = buffer, moments
            for step in bottleneck:
                read = batch.convolve(*read, step, None)
                outputs.append(read[0])
                inside.append(read[1])
            buffer, added = batch.convolve(*read, last, Target(buffer, channels))
            moments = Moments(*map(jnp.append, moments, added))
        return (buffer, outputs), (moments, inside)

    total = weights.sum() * size[0] * size[1]
    sharded, (moments, inside) = _on_all_devices(
        forward, (values, weights), (total, moments, layers)
    )
    of_layers = [[m] for m in inside] or [[] for _ in layers]
    kept = *sharded, weights, total, moments, inside, layers
    return (_maps(sharded[0], size), moments, of_layers), kept


def _block_backward(size, kept, gradients):
    buffer, outputs, weights, total, moments, inside, layers = kept
    of_values, of_moments, _ = gradients

    def backward(axes, gradient, buffer, outputs, weights, total, *replicated):
        of_moments, moments, inside, layers = replicated
        batch = _Batch(Images(weights, *size), axes, total)
        gradient, of_layers = _rows(gradient), []
        inner = [*zip(outputs, inside, strict=True)]
        for first, *rest in reversed(layers):
            new = len((rest or [first])[-1].kernel)
            channels = len(of_moments.mean) - new
            added = batch.normalization(
                buffer[:, channels : channels + new],
                moments.first(channels + new).from_channel(channels),
                of_moments.from_channel(channels),
            )
            of_output = batch.with_normalization(gradient[:, channels : channels + new], added)
            added, of_rest = None, []
            for step in rest:
                maps, of_maps = inner.pop()
                of_output, through, of_step = batch.gradients(
                    maps, of_maps, step, of_output, None, None
                )
                added = batch.normalization(maps, of_maps, through)
                of_rest.append(of_step)
            gradient, added, of_first = batch.gradients(
                buffer, moments.first(channels), first, of_output, added, gradient
            )
            of_moments = jax.tree.map(jnp.add, of_moments.first(channels), added)
            of_layers.insert(0, [of_first, *of_rest])
        return gradient[:, : len(of_moments.mean)], (of_moments, of_layers)

    of_input, (of_moments, of_layers) = _on_all_devices(
        backward,
        (of_values, buffer, outputs, weights),
        (total, of_moments, moments, inside, layers),
    )
    return _maps(of_input, size), of_moments, of_layers, jnp.zeros_like(weights)


_block.defvjp(_block_forward, _block_backward)


def _on_all_devices(function: Callable, sharded: tuple, replicated: tuple):
    """Returns `function(axes, *sharded, *replicated)`, a pair of sharded and replicated arrays.

    On the devices of the current mesh, each of which has a part of the batch; `axes` are the names
    of the axes of the mesh. Without a mesh, on one device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = mesh.axis_names if mesh.size > 1 else ()
    function = functools.partial(function, axes)
    if axes:
        batch, same = PartitionSpec(axes), PartitionSpec()
        specs = (batch,) * len(sharded) + (same,) * len(replicated)
        function = jax.shard_map(function, in_specs=specs, out_specs=(batch, same), check_vma=False)
    return function(*sharded, *replicated)


def _rows(maps: jax.Array) -> jax.Array:
    """Transposes `[N, C, H, W]` to `[N H W, C]`."""
    return maps.transpose(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _maps(rows: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Transposes `[N H W, C]` to `[N, C, H, W]`."""
    return rows.reshape(-1, *size, rows.shape[1]).transpose(0, 3, 1, 2)
