"""Counts the size and the work of a network from abstract shapes, without computing anything."""

import dataclasses
import functools
import math
import types

import jax
import jax.numpy as jnp
from flax import nnx

from densenet_jax.models.catalog import FAMILIES
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.models.network import Network, NetworkConfig


def count_params(config: NetworkConfig) -> int:
    """Counts the parameters, including scales and shifts of BatchNorm but no running statistics."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(_abstract(config), nnx.Param)))


def count_macs(config: NetworkConfig, height: int, width: int) -> int:
    """Counts the multiply-adds of convolutions and linear layers for one image's logits.

    The count follows the papers, whose transitions convolve before pooling.
    """
    return _count(config, height, width).macs


def count_layer_io(config: NetworkConfig, height: int, width: int) -> int:
    """Counts the numbers that convolutions and linear layers read and write for one image's logits.

    Weights are not counted, because a batch shares them.
    """
    counts = _count(config, height, width)
    return counts.inputs + counts.outputs


def count_fused_step_io(config: NetworkConfig, height: int, width: int) -> int:
    """Counts the numbers that a fully fused training step reads and writes for one image.

    Everything between two convolutions is assumed to be fused with them, and the chip to hold no
    more than one convolution needs. Each convolution and linear layer then
      * reads its input and writes its output in the forward pass,
      * reads its input and the gradient of its output in the backward pass, and adds to the
        gradient of its input by reading and writing it; one kernel computes both gradients.
    Inputs are therefore moved four times and outputs twice. Weights are not counted, because a
    batch shares them.
    """
    counts = _count(config, height, width, as_published=False)
    return 4 * counts.inputs + 2 * counts.outputs


@dataclasses.dataclass(frozen=True, order=True)
class _Counts:
    """Multiply-adds, and the numbers that convolutions and linear layers read and write."""

    macs: int = 0
    inputs: int = 0
    outputs: int = 0

    def __add__(self, other: "_Counts") -> "_Counts":
        return _Counts(
            self.macs + other.macs, self.inputs + other.inputs, self.outputs + other.outputs
        )

    def __mul__(self, times: int) -> "_Counts":
        return _Counts(times * self.macs, times * self.inputs, times * self.outputs)


def _count(config: NetworkConfig, height: int, width: int, *, as_published: bool = True) -> _Counts:
    if as_published and isinstance(config, DenseNetConfig):
        # Without dropout, transitions here pool before they convolve, which saves work.
        config = dataclasses.replace(config, dropout_rate=0.5)
    graphdef, state = nnx.split(_abstract(config))
    images = jax.ShapeDtypeStruct((1, height, width, config.in_channels), jnp.float32)
    program = jax.make_jaxpr(lambda state, images: nnx.merge(graphdef, state)(images))
    return _count_program(program(state, images).jaxpr)


def activation_bytes(config: NetworkConfig, height: int, width: int, batch_size: int) -> int:
    """Counts the bytes that a training step keeps for its backward pass, without parameters.

    The count includes every array that differentiation saves, whether or not a compiler removes it.
    """
    graphdef, params, *rest = nnx.split(_abstract(config), nnx.Param, ...)
    images = jax.ShapeDtypeStruct((batch_size, height, width, config.in_channels), jnp.float32)

    def kept(params, rest, images):
        def logits(params):
            return nnx.merge(graphdef, params, *rest, copy=True)(images, train=True)

        return jax.tree.leaves(jax.vjp(logits, params)[1])

    closed, shapes = jax.make_jaxpr(kept, return_shape=True)(params, rest, images)
    program = closed.jaxpr
    given = set(map(id, [*program.invars, *program.constvars]))
    # An array may be kept for several operations, as one variable.
    arrays = dict(zip(map(id, program.outvars), shapes, strict=True))
    return sum(a.size * a.dtype.itemsize for v, a in arrays.items() if v not in given)


@functools.cache
def _abstract(config: NetworkConfig) -> Network:
    def build():
        # One key for all parameters: under tracing, each key of nnx.Rngs costs more than the last.
        key = jax.random.key(0)
        one_key = types.SimpleNamespace(params=lambda: key, dropout=lambda: key)
        return FAMILIES[type(config)](config, rngs=one_key)

    return nnx.eval_shape(build)


def _is_jaxpr(value) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _count_program(jaxpr) -> _Counts:
    """Counts a program with its loops and calls; of the branches of a `cond`, only the largest."""
    total = _Counts()
    for equation in jaxpr.eqns:
        inner = [
            _count_program(getattr(leaf, "jaxpr", leaf))
            for leaf in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr)
            if _is_jaxpr(leaf)
        ]
        name, params = equation.primitive.name, equation.params
        operands = [variable.aval.shape for variable in equation.invars]
        if name in ("conv_general_dilated", "dot_general"):
            if name == "dot_general":
                axes = params["dimension_numbers"][0][0]
                per_output = math.prod(operands[0][axis] for axis in axes)
            else:
                out_axis = params["dimension_numbers"].rhs_spec[0]
                per_output = math.prod(operands[1]) // operands[1][out_axis]
            outputs = math.prod(equation.outvars[0].aval.shape)
            total += _Counts(outputs * per_output, math.prod(operands[0]), outputs)
        elif name == "cond":
            total += max(inner)
        else:
            total += sum(inner, _Counts()) * params.get("length", 1)
    return total
