"""Freezing: parameters and running statistics that training leaves as they are.

A frozen BatchNorm normalises by its running statistics. Only the other parameters are
differentiated, so that no gradient passes below the lowest of them, and only they have optimiser
state. A tree of trained parameters has None in place of frozen ones, which JAX treats as no array.
"""

import re
from typing import Any

import jax
from flax import nnx
from jax.tree_util import keystr, tree_leaves_with_path, tree_map_with_path

from densenet_jax.errors import InputError
from densenet_jax.models.layers import BatchNorm
from densenet_jax.models.network import Network

ALL_BUT_HEAD = "all-but-head"
HEAD = "classifier/"  # The paths of the last linear layer begin with it.
_SHOWN = 4  # Number of paths in a message.


def freeze(model: Network, pattern: str) -> frozenset[str]:
    """Freezes the BatchNorms of `model` that `pattern` selects; returns the frozen parameters.

    Args:
      pattern: a regular expression, which selects parameters and running statistics whose path,
        such as "blocks/0/3/norm1/mean", contains a match; or "all-but-head".

    Raises InputError if `pattern` selects nothing, or every parameter.
    """
    paths = [path_of(path) for path, _ in tree_leaves_with_path(_params(model))]
    if pattern == ALL_BUT_HEAD:
        pattern = f"^(?!{HEAD})"
        if not any(path.startswith(HEAD) for path in paths):
            raise InputError(
                f"freeze is {ALL_BUT_HEAD!r}, but a {type(model).__name__} has no linear "
                f"classifier: use a regular expression for paths such as {_some(paths)}"
            )
    frozen = frozenset(path for path in paths if re.search(pattern, path))
    freezes_statistics = False
    for path, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm):
            of_module = "/".join(map(str, path))  # Mean and variance belong together.
            module.frozen = any(re.search(pattern, f"{of_module}/{s}") for s in ("mean", "var"))
            freezes_statistics |= module.frozen
    if len(frozen) == len(paths) or not (frozen or freezes_statistics):
        none_or_every = "every" if frozen else "no"
        raise InputError(
            f"freeze is {pattern!r}, which matches {none_or_every} parameter: use a part of a path "
            f"such as {_some(paths)}"
        )
    return frozen


def trained(params: Any, frozen: frozenset[str]) -> Any:
    """Returns `params` with None in place of the `frozen` ones."""
    return tree_map_with_path(lambda path, leaf: None if path_of(path) in frozen else leaf, params)


def merged(trained: Any, params: Any) -> Any:
    """Returns `trained`, a tree like `params`, with the leaves of `params` in place of None."""
    return jax.tree.map(
        lambda ours, theirs: theirs if ours is None else ours,
        trained,
        params,
        is_leaf=lambda leaf: leaf is None,
    )


def path_of(path: jax.tree_util.KeyPath) -> str:
    """Returns the path of a parameter as configs name it, such as "blocks/0/3/conv1/kernel"."""
    return keystr(path, simple=True, separator="/")


def _params(model: Network) -> Any:
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:_SHOWN])
