"""Measures the size of the gradient in each layer of a network."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import tree_leaves_with_path

from densenet_jax.models.network import Network
from densenet_jax.train.losses import Loss


def gradient_norms(model: Network, images: jax.Array, labels: jax.Array) -> dict[str, float]:
    """Returns the ratio of the gradient's norm to the kernel's norm, by the path of each kernel.

    Kernels are in the order in which the network uses them. Each block of a stack, which holds the
    equal blocks of a ResNet, has an entry. The loss is the cross-entropy in training mode, which
    normalises with the statistics of the batch.

    Args:
      images: `[N, H, W, C]`, normalised.
      labels: `[N]`.
    """
    graphdef, state, *rest = nnx.split(model, nnx.Param, ...)
    params = nnx.to_pure_dict(state)

    def loss(params):
        merged = nnx.merge(graphdef, params, *rest, copy=True)
        return Loss("cross_entropy")(merged(images, train=True), labels).mean()

    gradients = jax.tree.leaves(jax.jit(jax.grad(loss))(params))
    program = jax.make_jaxpr(loss)(params).jaxpr
    used: dict[int, tuple[int, int]] = {}  # Equation and operand that first use a variable.
    for i, equation in enumerate(program.eqns):
        for j, variable in enumerate(equation.invars):
            used.setdefault(id(variable), (i, j))
    found = []
    leaves = zip(program.invars, tree_leaves_with_path(params), gradients, strict=True)
    for variable, (path, kernel), gradient in leaves:
        *parents, kind = (str(key.key) for key in path)
        if kind != "kernel":
            continue
        is_stacked = kernel.ndim == 5
        axes = tuple(range(int(is_stacked), kernel.ndim))
        ratios = jnp.sqrt(jnp.square(gradient).sum(axes) / jnp.square(kernel).sum(axes))
        i, j = used[id(variable)]
        for block, ratio in enumerate(np.atleast_1d(ratios)):
            name = ".".join([*parents, *([str(block)] if is_stacked else [])])
            found.append(((i, block, j), name, float(ratio)))
    return {name: ratio for _, name, ratio in sorted(found)}
