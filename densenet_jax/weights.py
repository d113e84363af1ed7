"""Weights under PyTorch's names and in PyTorch's layouts, in and out; see `torch_names`."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from densenet_jax import weight_files
from densenet_jax.errors import InputError
from densenet_jax.torch_names import naming

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# PyTorch counts batches beside each BatchNorm; nothing here depends on that.
_IGNORED = "num_batches_tracked"


def load_torch(
    model: nnx.Module, source: Mapping[str, np.ndarray] | str | Path, head: bool | None = True
) -> None:
    """Sets all parameters and running statistics of `model` from `source`.

    Args:
      model: a DenseNet, an RDNet, or a ResNet without pre-activation; changed in place, or not at
        all on an error.
      source: PyTorch name to array in PyTorch's layout (convolutions OIHW, linear out x in); or a
        file of them, or `hf:REPOSITORY`, see `weight_files.read`. Names are those of torchvision,
        old and new, of timm, of mmpretrain, or of the memory-efficient PyTorch DenseNet.
      head: whether to set the classifier; if not, that of `source` may be for other classes; None:
        if it is for as many.

    Raises:
      InputError: names are missing or left over, or shapes differ; the sentence lists them. Or the
        file cannot be read, or nobody has named the parameters of such a network in PyTorch.
    """
    if isinstance(source, str | Path):
        source = weight_files.read(source)
    names = naming(model)
    given = {
        names.of_others(name): np.asarray(array)
        for name, array in source.items()
        if not name.endswith(_IGNORED)
    }
    expected = {name: array.shape for name, array in to_torch(model).items()}
    if head is None:
        head = all(
            given[n].shape == expected[n]
            for n in expected
            if n in given and n.startswith(names.head)
        )
    if not head:
        given, expected = (
            {name: value for name, value in named.items() if not name.startswith(names.head)}
            for named in (given, expected)
        )
    _check(given, expected)
    for variable, torch_names, is_stack in _named_variables(model):
        if torch_names[0] in expected:
            arrays = [_from_torch(given[name]) for name in torch_names]
            array = np.stack(arrays) if is_stack else arrays[0]
            variable[...] = jax.device_put(array.astype(variable.dtype))


def to_torch(model: nnx.Module) -> dict[str, np.ndarray]:
    """All parameters and running statistics of `model`, by PyTorch name, in PyTorch's layouts.

    Works as well on a model merged from gradients. Raises InputError for a network that has no
    PyTorch names.
    """
    arrays = {}
    for variable, names, is_stack in _named_variables(model):
        array = np.asarray(variable[...])
        arrays |= zip(names, map(_to_torch, array if is_stack else [array]), strict=True)
    return arrays


def _check(given: dict[str, np.ndarray], expected: dict[str, tuple[int, ...]]) -> None:
    problems = [f"missing {name} {expected[name]}" for name in expected if name not in given]
    problems += [f"unexpected {name} {given[name].shape}" for name in given if name not in expected]
    problems += [
        f"{name} has shape {given[name].shape} instead of {shape}"
        for name, shape in expected.items()
        if name in given and given[name].shape != shape
    ]
    if problems:
        more = f", and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise InputError(f"these weights are not this network's: {'; '.join(problems[:8])}{more}.")


class _NamedVariable(NamedTuple):
    """A variable, and its name in PyTorch; or, of a stack of blocks, one for each block."""

    variable: nnx.Variable
    names: list[str]
    is_stack: bool


def _named_variables(model: nnx.Module) -> list[_NamedVariable]:
    names, named = naming(model), []
    for path, variable in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        *parents, leaf = map(str, path)
        name = ".".join([*parents, _LEAVES.get(leaf, leaf)])
        is_stack = "rest" in parents
        # The first block of a stage is told apart, see `models.resnet.Stage`.
        blocks = range(1, 1 + variable.shape[0]) if is_stack else [0]
        torch_names = [names.of_ours(name, block) for block in blocks]
        named.append(_NamedVariable(variable, torch_names, is_stack))
    return named


def _to_torch(array: np.ndarray) -> np.ndarray:
    return array.transpose({4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, tuple(range(array.ndim))))


def _from_torch(array: np.ndarray) -> np.ndarray:
    return array.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, tuple(range(array.ndim))))
