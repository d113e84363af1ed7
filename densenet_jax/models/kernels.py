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
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from densenet_jax.models.layers import relu, scale_shift

# Largest number of outputs of a convolution, by its number of taps. The registers of a program
# cannot hold more sums.
MAX_OUTPUTS = {1: 256, 9: 64}
MIN_TILE = 16  # Tensor cores multiply matrices of at least 16 rows and columns.
# Number of warps of all programs of a backward kernel: 16 on each multiprocessor of an H100. With
# more warps a second wave of programs would start when the first one ends.
WARPS = 16 * 132

FLOAT32 = jnp.float32


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


class Tiling(NamedTuple):
    """How a kernel divides its work.

    Attributes:
      rows, channels, outputs: positions, input channels and outputs of a tile, powers of two.
      warps: number of warps of a program.
      stages: number of tiles that are loaded ahead, and 1.
    """

    rows: int
    channels: int
    outputs: int
    warps: int
    stages: int = 1


def forward_tiling(taps: int, channels: int, outputs: int) -> Tiling:
    """Returns the tiling of `normalize_convolve`."""
    if taps == 1:
        return Tiling(64, min(_tile(channels), 64), _tile(outputs), warps=8, stages=3)
    return Tiling(64, min(_tile(channels), 32), _tile(outputs), warps=4)


def backward_tiling(taps: int, channels: int, outputs: int, of: "Gradients") -> Tiling:
    """Returns the tiling of the kernel that computes the gradients `of`."""
    if taps == 1:
        return Tiling(32, min(_tile(channels), 32), _tile(outputs), warps=8)
    widest = 32 if outputs <= 16 * (2 if of.kernel else 1) else 16
    return Tiling(64, min(_tile(channels), 2 * widest), _tile(outputs), warps=8)


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
    positions, tiling = len(source.maps), forward_tiling(taps, channels, outputs)
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
        _forward_tile,
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


class Gradients(NamedTuple):
    """Which gradients of a convolution a kernel computes: those of its maps, or of its kernel."""

    maps: bool
    kernel: bool


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
    positions, tiling = len(source.maps), backward_tiling(taps, channels, outputs, of)
    tiles, chunks = pl.cdiv(positions, tiling.rows), pl.cdiv(channels, tiling.channels)
    tiles_in_strip = pl.cdiv(tiles, max(WARPS // tiling.warps // chunks, 1))
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
        _backward_strip,
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


def _forward_tile(maps, kernel, weights, vectors, *refs, tiling: Tiling, size, first):
    """Convolves one tile of positions."""
    result, sums = refs[-2:]
    outputs, taps, channels = kernel.shape
    tile = pl.program_id(0)
    rows = tile * tiling.rows + jnp.arange(tiling.rows)
    inside = rows < len(maps)
    out = jnp.arange(tiling.outputs)
    wanted = out < outputs
    neighbours = [_neighbours(rows, tap, taps, size) for tap in range(taps)]

    def add_chunk(chunk, total):
        columns = chunk * tiling.channels + jnp.arange(tiling.channels)
        known = columns < channels
        affine = _affine(vectors, columns, channels)
        matrix = known[:, None] & wanted
        for tap, (near, exists) in enumerate(neighbours):
            place = (exists & inside)[:, None] & known, near[:, None], columns
            active, _ = _activate(maps, place, affine)
            total += _product(active, _load(kernel, matrix, out, tap, columns[:, None]))
        return total

    total = jnp.zeros((tiling.rows, tiling.outputs), FLOAT32)
    total = lax.fori_loop(0, pl.cdiv(channels, tiling.channels), add_chunk, total)
    values = total.astype(result.dtype)
    _store(result, values, inside[:, None] & wanted, rows[:, None], first + out)
    distance = values.astype(FLOAT32) - _load(vectors, wanted, 4 * channels + out)
    weighted = _load(weights, inside, rows // math.prod(size))[:, None] * distance
    for index, summand in enumerate((weighted, weighted * distance)):
        _store(sums, summand.sum(0), wanted, tile, index, out)


def _backward_strip(
    maps, kernel, weights, gradient, vectors, *refs,
    tiling: Tiling, size, tiles, normalizes, adds, of: Gradients,
):  # fmt: skip
    """Computes the gradients for one chunk of channels and one strip of tiles of positions."""
    outputs, taps, channels = kernel.shape
    chunk, strip = pl.program_id(0), pl.program_id(1)
    columns = chunk * tiling.channels + jnp.arange(tiling.channels)
    known = columns < channels
    others = list(refs)
    values = others.pop(0) if normalizes else None
    earlier = others.pop(0) if adds else None
    sums = others.pop()
    affine = _affine(vectors, columns, channels)
    out = jnp.arange(tiling.outputs)
    wanted = out < outputs
    matrix = known[:, None] & wanted
    if normalizes:
        mean, of_mean, of_variance = (
            _load(vectors, wanted, 4 * channels + n * outputs + out) for n in range(3)
        )

    def output_gradient(rows, inside, tap):
        # The output that reads a position through a tap lies on the other side of it.
        near, exists = _neighbours(rows, taps - 1 - tap, taps, size)
        inside &= exists
        place = inside[:, None] & wanted, near[:, None], out
        g = _load(gradient, *place)
        if normalizes:
            distance = _load(values, *place).astype(FLOAT32) - mean
            weight = _load(weights, inside, near // math.prod(size))[:, None]
            g = g.astype(FLOAT32) + weight * (of_mean + of_variance * distance)
        # The selection keeps Triton from loading each value once for every warp.
        return jnp.where(place[0], g, 0).astype(maps.dtype)

    def add_tile(tile, totals):
        of_scale, of_shift, *of_kernel = totals
        rows = (strip * tiles + tile) * tiling.rows + jnp.arange(tiling.rows)
        inside = rows < len(maps)
        place = inside[:, None] & known, rows[:, None], columns
        active, x = _activate(maps, place, affine)
        total = jnp.zeros(x.shape, FLOAT32)
        for tap in range(taps):
            g = output_gradient(rows, inside, tap)
            if of.maps:
                total += _product(g, _load(kernel, matrix, out, tap, columns[:, None]), 1)
            if of.kernel:
                of_kernel[tap] += _product(active, g, transposed=0)
        if of.maps:
            total = jnp.where(active > 0, total, 0)
            added = total * affine[0]
            if adds:
                added += _load(earlier, *place).astype(FLOAT32)
            _store(others[0], added.astype(maps.dtype), *place)
        return of_scale + (total * x).sum(0), of_shift + total.sum(0), *of_kernel

    shapes = [columns.shape] * 2 + [matrix.shape] * taps * of.kernel
    zeros = tuple(jnp.zeros(shape, FLOAT32) for shape in shapes)
    of_scale, of_shift, *of_kernel = lax.fori_loop(0, tiles, add_tile, zeros)
    if of.maps:
        for row, total in enumerate((of_scale, of_shift)):
            _store(sums, total, known, strip, row, columns)
    for tap, total in enumerate(of_kernel):
        row = 2 * of.maps + out * taps + tap
        _store(sums, total, matrix, strip, row, columns[:, None])


def _neighbours(rows, tap, taps: int, size: tuple[int, int]):
    """Returns the positions that a tap of the kernel reads for the outputs at positions `rows`.

    Also returns whether they are inside the image.
    """
    height, width = size
    if taps == 1:
        return rows, jnp.full(rows.shape, True)
    down, right = tap // 3 - 1, tap % 3 - 1
    y, x = rows // width % height + down, rows % width + right
    return rows + (down * width + right), (y >= 0) & (y < height) & (x >= 0) & (x < width)


def _affine(vectors, columns, channels: int):
    """Returns the scale and shift of a chunk of channels, from the vectors of `Source`."""
    known = columns < channels
    a, b = scale_shift(*(_load(vectors, known, n * channels + columns) for n in range(4)))
    return jnp.where(known, a, 0), b


def _activate(maps, place, affine):
    """Returns ReLU(a x + b) of a tile, zeros where masked, and x in float32."""
    a, b = affine
    x = _load(maps, *place).astype(FLOAT32)
    return jnp.where(place[0], relu(x * a + b), 0).astype(maps.dtype), x


def _load(ref, mask, *indices):
    """Loads the elements at broadcast `indices`, zeros where `mask` is False."""
    return triton.load(_at(ref, mask, indices), mask=mask, other=0)


def _store(ref, value, mask, *indices):
    triton.store(_at(ref, mask, indices), value, mask=mask)


def _at(ref, mask, indices):
    return ref.at[tuple(jnp.broadcast_to(index, mask.shape) for index in indices)]


def _product(x, y, transposed: int | None = None):
    """Returns x y, or x^T y or x y^T if the operand number `transposed` is transposed."""
    contracted = ((0 if transposed == 0 else 1,), (1 if transposed == 1 else 0,))
    return lax.dot_general(x, y, (contracted, ((), ())), preferred_element_type=FLOAT32)


def _tile(length: int) -> int:
    """Returns the least length of a tile, a power of two, that covers `length`."""
    return max(MIN_TILE, pl.next_power_of_2(length))
