"""How large a network is: counted on abstract shapes, nothing is computed."""

import dataclasses
import functools
import math
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from densenet_jax.models.catalog import FAMILIES
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.models.network import NetworkConfig


def count_params(config: NetworkConfig) -> int:
    """Parameters, scale and shift of BatchNorm included, running statistics not."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(_abstract(config), nnx.Param)))


def count_macs(config: NetworkConfig, height: int, width: int) -> int:
    """Multiply-adds for one image's logits, of convolutions and linear layers.

    Counted as the papers do, who have a transition's convolution before its pooling.
    """
    return _count(config, height, width).macs


def count_touched(config: NetworkConfig, height: int, width: int) -> int:
    """Numbers that convolutions and linear layers read and write for one image's logits.

    Their weights apart, which a batch shares.
    """
    counts = _count(config, height, width)
    return counts.inputs + counts.outputs


def count_fused(config: NetworkConfig, height: int, width: int) -> int:
    """Counts the numbers that a training step must move in memory for one image.

    Everything between two convolutions is fused with them, and a step keeps no more on chip than
    one convolution needs. Then each convolution and linear layer
      * reads its input and writes its output, forward,
      * reads its input and the gradient of its output, and adds to the gradient of its input by
        reading and writing it, backward: in one kernel for both gradients.
    So inputs are moved four times and outputs twice. A batch shares the weights, which are left
    out.
    """
    counts = _count(config, height, width, as_published=False)
    return 4 * counts.inputs + 2 * counts.outputs


class _Counts(NamedTuple):
    """Multiply-adds, and the numbers that convolutions and linear layers read and write."""

    macs: int
    inputs: int
    outputs: int

    def __add__(self, other: "_Counts") -> "_Counts":
        return _Counts(*map(sum, zip(self, other, strict=True)))

    def __mul__(self, times: int) -> "_Counts":
        return _Counts(*(times * count for count in self))


def _count(config: NetworkConfig, height: int, width: int, *, as_published: bool = True) -> _Counts:
    if as_published and isinstance(config, DenseNetConfig):
        # Without dropout between them, ours convolves after pooling.
        config = dataclasses.replace(config, dropout_rate=0.5)
    graphdef, state = nnx.split(_abstract(config))
    images = jax.ShapeDtypeStruct((1, height, width, config.in_channels), jnp.float32)
    program = jax.make_jaxpr(lambda state, images: nnx.merge(graphdef, state)(images))
    return _count_program(program(state, images).jaxpr)


def activation_bytes(config: NetworkConfig, height: int, width: int, batch_size: int) -> int:
    """What a training step keeps between its forward and its backward pass, parameters apart.

    Of the arrays that differentiation asks for, whatever a compiler makes of them.
    """
    graphdef, params, rest = nnx.split(_abstract(config), nnx.Param, ...)
    images = jax.ShapeDtypeStruct((batch_size, height, width, config.in_channels), jnp.float32)

    def kept(params, rest, images):
        def logits(params):
            return nnx.merge(graphdef, params, rest, copy=True)(images, train=True)

        return jax.tree.leaves(jax.vjp(logits, params)[1])

    program = jax.make_jaxpr(kept)(params, rest, images).jaxpr
    given = set(map(id, [*program.invars, *program.constvars]))
    arrays = {id(v): v.aval for v in program.outvars if id(v) not in given}
    return sum(aval.size * aval.dtype.itemsize for aval in arrays.values())


@functools.cache
def _abstract(config: NetworkConfig) -> nnx.Module:
    def build():
        # One key for all: nnx.Rngs counts, and while tracing its count costs more each time.
        key = jax.random.key(0)
        one_key = types.SimpleNamespace(params=lambda: key, dropout=lambda: key)
        return FAMILIES[type(config)](config, rngs=one_key)

    return nnx.eval_shape(build)


def _is_jaxpr(value) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _count_program(jaxpr) -> _Counts:
    """Of a program, its loops and calls included; of alternatives, one for each backend, one."""
    total = _Counts(0, 0, 0)
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
            total += sum(inner, _Counts(0, 0, 0)) * params.get("length", 1)
    return total
