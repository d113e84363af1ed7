"""Two Pallas kernels for dense blocks on NVIDIA GPUs: BN-ReLU-convolution, and its gradients.

Feature maps are `[positions, channels]`, with the positions of all images in sequence. Both kernels
serve 1x1 and 3x3 convolutions of stride 1. They read and write columns of wider arrays in place, so
that a dense block can keep all its maps in one buffer. Sums and products accumulate in float32.

`kernel` is always `[outputs, taps, channels]`: 1 tap for a 1x1 convolution, 9 for a 3x3 one, row by
row. On other devices than GPUs the kernels are interpreted, which is slow and serves tests.
launch/benchmark/NOTES.md explains the choice of Triton and of each `Tiling`.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.typing import DTypeLike

from densenet_jax.models.kernel_bodies import (
    FLOAT32,
    Gradients,
    Tiling,
    backward_strip,
    forward_tile,
)

MIN_TILE = 16  # Tensor cores multiply matrices of at least 16 rows and columns.
# Number of programs of a backward kernel: two on each multiprocessor of an H100 or H200, for which
# there are registers. With more, a second wave of programs would start when the first one ends.
PROGRAMS = 2 * 132
# Least number of tiles of positions for one program of a backward kernel. Each program writes sums,
# which would otherwise take more memory traffic than small maps.
MIN_TILES = 4


class Source(NamedTuple):
    """The input of BN-ReLU-convolution.

    Attributes:
      maps: `[positions, channels or more]`; the first channels are the input.
      mean, var, scale, bias: `[channels]` float32, of the batch normalisation.
    """

    maps: jax.Array
    mean: jax.Array
    var: jax.Array
    scale: jax.Array
    bias: jax.Array


class Target(NamedTuple):
    """Columns of `array`, `[positions, channels]`, beginning with number `first`."""

    array: jax.Array
    first: int


class Normalization(NamedTuple):
    """The derivative of the loss through the batch statistics of a convolution's output.

    It adds `weight (of_mean + of_variance (values - mean))` to the gradient of the output, where
    the weight is that of the image in the statistics.

    Attributes:
      values: the output, `[positions, outputs]`.
      mean, of_mean, of_variance: `[outputs]` float32.
    """

    values: jax.Array
    mean: jax.Array
    of_mean: jax.Array
    of_variance: jax.Array


class Images(NamedTuple):
    """The images of a batch.

    Attributes:
      weights: `[images]` float32, the weight of each image in batch statistics.
      height, width: size of the feature maps.
    """

    weights: jax.Array
    height: int
    width: int


def forward_tiling(taps: int, channels: int, outputs: int, dtype: DTypeLike) -> Tiling:
    """Returns the tiling of `normalize_convolve`."""
    if _is_wide(dtype):
        rows, widest, stages = 32, 32, 1
    elif taps > 1:
        rows, widest, stages = (128, 16, 2) if outputs <= 16 else (32, 64, 2)
    elif outputs <= 64:
        rows, widest, stages = 64, 128, 2
    else:
        rows, widest, stages = 128 if outputs <= 128 else 64, 64, 3
    return Tiling(rows, min(_tile(channels), widest), _tile(outputs), 4, stages)


def backward_tiling(
    taps: int, channels: int, outputs: int, of: Gradients, dtype: DTypeLike
) -> Tiling:
    """Returns the tiling of the kernel that computes the gradients `of`."""
    if _is_wide(dtype) or outputs > (128 if taps == 1 else 32):  # Four warps lack registers.
        rows, widest, warps, stages = 64, 16 if _is_wide(dtype) else 32, 8, 1
    elif taps == 1:
        rows, widest, warps, stages = 64, 32, 4, 2
    else:
        rows, widest, warps, stages = 128 if of.maps else 64, 64, 4, 1
    return Tiling(rows, min(_tile(channels), widest), _tile(outputs), warps, stages)


def _is_wide(dtype: DTypeLike) -> bool:
    return jnp.dtype(dtype).itemsize > 2


def normalize_convolve(
    source: Source, kernel: jax.Array, images: Images, center: jax.Array, target: Target | None
) -> tuple[jax.Array, jax.Array]:
    """Returns ReLU(norm(source)) convolved with `kernel`, and sums for its batch statistics.

    Args:
      center: `[outputs]` float32, approximate means of the result.
      target: the columns that receive the result in place; None: a new array.

    Returns:
      The array with the result, and `[2, outputs]` float32: the weighted sums over positions of
      the result less `center` and of its square.
    """
    outputs, taps, channels = kernel.shape
    positions, tiling = len(source.maps), forward_tiling(taps, channels, outputs, source.maps.dtype)
    tiles = pl.cdiv(positions, tiling.rows)
    maps, *norm = source
    operands = [maps, kernel, images.weights, jnp.concatenate([*norm, center])]
    shape: tuple[int, ...] = (positions, outputs)
    aliases = {}
    if target:
        if target.array is maps:
            aliases = {0: 0}
        else:
            aliases = {len(operands): 0}
            operands.append(target.array)
        shape = target.array.shape
    values, sums = _call(
        forward_tile,
        operands,
        [
            jax.ShapeDtypeStruct(shape, maps.dtype),
            jax.ShapeDtypeStruct((tiles, 2, outputs), FLOAT32),
        ],
        (tiles,),
        aliases,
        channels + outputs,
        taps,
        tiling=tiling,
        size=(images.height, images.width),
        first=target.first if target else 0,
    )
    return values, sums.sum(0)


def convolution_gradients(
    source: Source,
    kernel: jax.Array,
    images: Images,
    gradient: jax.Array,
    normalization: Normalization | None,
    earlier: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the gradients of the convolution that `normalize_convolve` computes.

    Args:
      gradient: that of the output, `[positions, outputs]`.
      normalization: is added to `gradient`, unless None.
      earlier: gradients of `source.maps` from other readers, to which the new gradient is added in
        place; None: there are none.

    Returns:
      The gradient of the maps, except through their batch statistics; the gradient of the kernel,
      float32; the gradients of `scale_shift`, `[2, channels]` float32.
    """
    compute = functools.partial(
        _gradients, source, kernel, images, gradient, normalization, earlier
    )
    if kernel.shape[1] == 1:
        of_maps, sums = compute(Gradients(maps=True, kernel=True))
        of_scale_shift, of_kernel = sums[:2], sums[2:]
    else:  # One kernel for both would need too many registers.
        of_maps, of_scale_shift = compute(Gradients(maps=True, kernel=False))
        [of_kernel] = compute(Gradients(maps=False, kernel=True))
    return of_maps, of_kernel.reshape(kernel.shape), of_scale_shift


def _gradients(
    source: Source, kernel, images: Images, gradient, normalization, earlier, of: Gradients
) -> list[jax.Array]:
    """Returns the gradient of the maps, if asked for, and sums `[rows, channels]`.

    The first two rows are the gradients of scale and shift if that of the maps is asked for. Those
    of the kernel follow, a row for each output and tap.
    """
    outputs, taps, channels = kernel.shape
    positions, tiling = (
        len(source.maps),
        backward_tiling(taps, channels, outputs, of, source.maps.dtype),
    )
    tiles, chunks = pl.cdiv(positions, tiling.rows), pl.cdiv(channels, tiling.channels)
    tiles_in_strip = max(MIN_TILES, pl.cdiv(tiles, max(PROGRAMS // chunks, 1)))
    strips = pl.cdiv(tiles, tiles_in_strip)
    rows = 2 * of.maps + outputs * taps * of.kernel
    maps, *vectors = source
    if normalization:
        vectors += normalization[1:]
    operands = [maps, kernel, images.weights, gradient, jnp.concatenate(vectors)]
    if normalization:
        operands.append(normalization.values)
    moved = channels + outputs * (2 if normalization else 1)
    results = [jax.ShapeDtypeStruct((strips, rows, channels), FLOAT32)]
    aliases = {}
    if of.maps:
        shape, dtype = (positions, channels), source.maps.dtype
        moved += channels
        if earlier is not None:
            aliases, shape = {len(operands): 0}, earlier.shape
            operands.append(earlier)
            moved += channels
        results.insert(0, jax.ShapeDtypeStruct(shape, dtype))
    *of_maps, sums = _call(
        backward_strip,
        operands,
        results,
        (chunks, strips),  # The first varies fastest: chunks of a strip share it in the cache.
        aliases,
        moved,
        taps * (of.maps + of.kernel),
        tiling=tiling,
        size=(images.height, images.width),
        tiles=tiles_in_strip,
        normalizes=bool(normalization),
        adds=bool(aliases),
        of=of,
    )
    return [*of_maps, sums.sum(0)]


def _call(
    body: Callable,
    operands: list[jax.Array],
    results: list[jax.ShapeDtypeStruct],
    grid: tuple[int, ...],
    aliases: dict[int, int],
    moved: int,
    products: int,
    *,
    tiling: Tiling,
    **settings,
) -> list[jax.Array]:
    """Runs a kernel on a GPU, or interpreted elsewhere. Returns its results, `sums` last.

    Args:
      aliases: index of the operand whose place a result takes, and of the result.
      moved: channels of maps that the kernel reads and writes at each position.
      products: number of products of tiles in each chunk of channels.
      settings: arguments of `body`.
    """
    maps, sums = operands[0], results[-1]
    channels = pl.cdiv(operands[1].shape[2], tiling.channels) * tiling.channels
    cost = {
        "moved_bytes": moved * len(maps) * maps.dtype.itemsize + math.prod(sums.shape) * 4,
        "multiply_adds": products * len(maps) * channels * tiling.outputs,
    }
    call = pl.pallas_call(
        functools.partial(body, tiling=tiling, **settings),
        results,
        grid=grid,
        input_output_aliases=aliases,
        interpret=not _is_for_gpu(),
        compiler_params=triton.CompilerParams(num_warps=tiling.warps, num_stages=tiling.stages),
        metadata={key: str(value) for key, value in cost.items()},  # For analysis.roofline.
    )
    return call(*operands)


def _is_for_gpu() -> bool:
    """Returns whether the program is for a GPU: the device of the mesh, or JAX's default.

    `lax.platform_dependent` would trace every kernel twice, at twice the time.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (device.platform if device else jax.default_backend()) == "gpu"


def _tile(length: int) -> int:
    """Returns the least length of a tile, a power of two, that covers `length`."""
    return max(MIN_TILE, pl.next_power_of_2(length))
