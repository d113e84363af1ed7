"""The bodies of the two Pallas kernels of kernels.py: what one program of each computes.

Masks exclude the positions, channels and outputs by which tiles are larger than arrays.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from densenet_jax.models.layers import scale_shift

FLOAT32 = jnp.float32


class Tiling(NamedTuple):
    """How a kernel divides its work.

    Attributes:
      rows, channels, outputs: positions, input channels and outputs of a tile, powers of two.
      warps: number of warps of a program.
      stages: one more than the number of tiles that are loaded ahead.
    """

    rows: int
    channels: int
    outputs: int
    warps: int
    stages: int


class Gradients(NamedTuple):
    """Which gradients of a convolution a kernel computes: those of its maps, or of its kernel."""

    maps: bool
    kernel: bool


def forward_tile(maps, kernel, weights, vectors, *refs, tiling: Tiling, size, first):
    """Convolves one tile of positions."""
    result, sums = refs[-2:]
    outputs, taps, channels = kernel.shape
    tile = pl.program_id(0)
    rows = tile * tiling.rows + _range(tiling.rows)
    inside = rows < len(maps)
    out = _range(tiling.outputs)
    wanted = out < outputs

    def add_chunk(chunk, total):
        columns = chunk * tiling.channels + _range(tiling.channels)
        known = columns < channels
        affine = _affine(vectors, columns, channels)
        matrix = known[:, None] & wanted

        def load(tap):
            near, exists = _neighbours(rows, tap, taps, size)
            exists = (exists & inside)[:, None]
            x = _load(maps, exists & known, near[:, None], columns)
            bound = jnp.where(exists, jnp.inf, 0).astype(FLOAT32)
            return x, bound, _load(kernel, matrix, out, tap, columns[:, None])

        def multiply(x, bound, matrix):
            active = _activate(x.astype(FLOAT32), affine)
            if taps > 1:  # Zeros around the image. A bound takes fewer instructions than a mask.
                active = jnp.minimum(active, bound)
            return _product(active.astype(x.dtype), matrix)

        return _sum_over_taps(taps, load(0), load, multiply, total)

    total = jnp.zeros((tiling.rows, tiling.outputs), FLOAT32)
    total = lax.fori_loop(0, pl.cdiv(channels, tiling.channels), add_chunk, total)
    values = total.astype(result.dtype)
    _store(result, values, inside[:, None] & wanted, rows[:, None], first + out)
    distance = values.astype(FLOAT32) - _load(vectors, wanted, 4 * channels + out)
    weighted = _load(weights, inside, _divide(rows, math.prod(size))[0])[:, None] * distance
    for index, summand in enumerate((weighted, weighted * distance)):
        _store(sums, summand.sum(0), wanted, tile, index, out)


def backward_strip(
    maps, kernel, weights, gradient, vectors, *refs,
    tiling: Tiling, size, tiles, normalizes, adds, of: Gradients,
):  # fmt: skip
    """Computes the gradients for one chunk of channels and one strip of tiles of positions."""
    outputs, taps, channels = kernel.shape
    chunk, strip = pl.program_id(0), pl.program_id(1)
    columns = chunk * tiling.channels + _range(tiling.channels)
    known = columns < channels
    others = list(refs)
    values = others.pop(0) if normalizes else None
    earlier = others.pop(0) if adds else None
    sums = others.pop()
    affine = _affine(vectors, columns, channels)
    out = _range(tiling.outputs)
    wanted = out < outputs
    matrix = known[:, None] & wanted
    if normalizes:
        mean, of_mean, of_variance = (
            _load(vectors, wanted, 4 * channels + n * outputs + out) for n in range(3)
        )

    def add_tile(tile, totals):
        of_scale, of_shift, *of_kernel = totals
        rows = (strip * tiles + tile) * tiling.rows + _range(tiling.rows)
        inside = rows < len(maps)
        place = inside[:, None] & known, rows[:, None], columns
        x = _load(maps, *place).astype(FLOAT32)
        active = _activate(x, affine)

        def load(tap):
            # The output that reads a position through a tap lies on the other side of it.
            near, exists = _neighbours(rows, taps - 1 - tap, taps, size)
            exists &= inside
            place = exists[:, None] & wanted, near[:, None], out
            g = _load(gradient, *place)
            if not normalizes:
                return g
            distance = _load(values, *place).astype(FLOAT32) - mean
            weight = _load(weights, exists, _divide(near, math.prod(size))[0])[:, None]
            g = g.astype(FLOAT32) + weight * (of_mean + of_variance * distance)
            return jnp.where(place[0], g, 0).astype(maps.dtype)

        def load_both(tap, g=None):
            g = load(tap) if g is None else g
            return g, _load(kernel, matrix, out, tap, columns[:, None])

        first = load(0)
        for tap, of_tap in enumerate(of_kernel):
            g = load(tap) if tap else first
            of_kernel[tap] = of_tap + _product(active.astype(maps.dtype), g, 0)
        if of.maps:
            total = _sum_over_taps(
                taps,
                load_both(0, first),
                load_both,
                lambda g, weights: _product(g, weights, 1),
                jnp.zeros(x.shape, FLOAT32),
            )
            total = jnp.where(active <= 0, 0, total)
            added = total * affine[0]
            if adds:
                added += _load(earlier, *place).astype(FLOAT32)
            _store(others[0], added.astype(maps.dtype), *place)
            of_scale, of_shift = of_scale + (total * x).sum(0), of_shift + total.sum(0)
        return of_scale, of_shift, *of_kernel

    shapes = [columns.shape] * 2 + [matrix.shape] * taps * of.kernel
    zeros = tuple(jnp.zeros(shape, FLOAT32) for shape in shapes)
    of_scale, of_shift, *of_kernel = lax.fori_loop(0, tiles, add_tile, zeros)
    if of.maps:
        for row, total in enumerate((of_scale, of_shift)):
            _store(sums, total, known, strip, row, columns)
    for tap, total in enumerate(of_kernel):
        row = 2 * of.maps + out * taps + tap
        _store(sums, total, matrix, strip, row, columns[:, None])


def _range(length: int):
    return jnp.arange(length, dtype=jnp.int32)


def _sum_over_taps(taps: int, first, load, multiply, total):
    """Adds to `total` the products of all taps, of which `first` are the operands of the first.

    The operands of the next tap are loaded while those of one are multiplied.
    """
    if taps == 1:
        return total + multiply(*first)

    def add(tap, carry):
        total, loaded = carry
        following = load(jnp.minimum(tap + 1, taps - 1))
        return total + multiply(*loaded), following

    return lax.fori_loop(0, taps, add, (total, first))[0]


def _neighbours(rows, tap, taps: int, size: tuple[int, int]):
    """Returns the positions that a tap of the kernel reads for the outputs at positions `rows`.

    Also returns whether they are inside the image.
    """
    height, width = size
    if taps == 1:
        return rows, jnp.full(rows.shape, True)
    down, right = (n - 1 for n in _divide(tap, 3))
    line, x = _divide(rows, width)
    _, y = _divide(line, height)
    y, x = y + down, x + right
    return rows + (down * width + right), (y >= 0) & (y < height) & (x >= 0) & (x < width)


def _divide(index, by: int):
    """Returns quotient and remainder of an index, without the rounding of negative numbers."""
    index = jnp.asarray(index, jnp.int32)
    divisor = jnp.full_like(index, by)
    return lax.div(index, divisor), lax.rem(index, divisor)


def _affine(vectors, columns, channels: int):
    """Returns the scale and shift of a chunk of channels, from the vectors of `Source`."""
    known = columns < channels
    a, b = scale_shift(*(_load(vectors, known, n * channels + columns) for n in range(4)))
    return a, b


def _activate(x, affine):
    """Returns ReLU(a x + b). The maximum, unlike a selection, is one instruction; it keeps NaN."""
    a, b = affine
    return jnp.maximum(x * a + b, 0)


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
