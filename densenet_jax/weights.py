"""Weights under PyTorch's names and in PyTorch's layouts, in and out.

Names are torchvision's: `features.denseblock1.denselayer1.norm1.running_mean` and so on of a
DenseNet, `layer1.0.downsample.0.weight` and so on of a ResNet.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from densenet_jax import weight_files
from densenet_jax.errors import InputError
from densenet_jax.models.resnet import ResNet

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# PyTorch counts batches beside each BatchNorm; nothing here depends on that.
_IGNORED = "num_batches_tracked"


def load_torch(model: nnx.Module, source: Mapping[str, np.ndarray] | str | Path) -> None:
    """Sets all parameters and running statistics of `model` from `source`.

    Args:
      model: a DenseNet, or a ResNet without pre-activation; changed in place, or not at all on an
        error.
      source: PyTorch name to array in PyTorch's layout (convolutions OIHW, linear out x in); or a
        file of them, see `weight_files.read`.

    Raises:
      InputError: names are missing or left over, or shapes differ; the sentence lists them. Or the
        file cannot be read, or nobody has named the parameters of such a network in PyTorch.
    """
    if isinstance(source, str | Path):
        source = weight_files.read(source)
    given = {name: np.asarray(a) for name, a in source.items() if not name.endswith(_IGNORED)}
    expected = {name: array.shape for name, array in to_torch(model).items()}
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
    for variable, names, is_stack in _named_variables(model):
        arrays = [_from_torch(given[name]) for name in names]
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


class _NamedVariable(NamedTuple):
    """A variable, and its name in PyTorch; or, of a stack of blocks, one for each block."""

    variable: nnx.Variable
    names: list[str]
    is_stack: bool


def _named_variables(model: nnx.Module) -> list[_NamedVariable]:
    named = []
    for path, variable in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        *parents, leaf = map(str, path)
        name, is_stack = f"{'.'.join(parents)}.{_LEAVES.get(leaf, leaf)}", False
        if hasattr(model, "norm5"):  # Whatever has the parts of a DenseNet, as a peer's may.
            names = [_densenet_name(name)]
        elif isinstance(model, ResNet) and not model.config.pre_activation:
            is_stack = "rest" in parents
            blocks = range(1, 1 + variable.shape[0]) if is_stack else [0]
            names = [_resnet_name(name, block) for block in blocks]
        else:
            raise InputError(
                f"a {type(model).__name__} like this has no PyTorch names: DenseNets have, and "
                "ResNets without pre-activation."
            )
        named.append(_NamedVariable(variable, names, is_stack))
    return named


def _densenet_name(name: str) -> str:
    name = re.sub(r"^blocks\.(\d+)\.(\d+)", _count_from_one("denseblock{}.denselayer{}"), name)
    name = re.sub(r"^transitions\.(\d+)", _count_from_one("transition{}"), name)
    return name if name.startswith("classifier") else f"features.{name}"


def _resnet_name(name: str, block: int) -> str:
    name = re.sub(r"^stages\.(\d+)", _count_from_one("layer{}"), name)
    name = re.sub(r"\.(first|rest\.blocks)\.", f".{block}.", name)
    name = re.sub(r"branch\.convs\.(\d+)", _count_from_one("conv{}"), name)
    name = re.sub(r"branch\.norms\.(\d+)", _count_from_one("bn{}"), name)
    name = name.replace("shortcut.conv", "downsample.0").replace("shortcut.norm", "downsample.1")
    return re.sub(r"^norm1", "bn1", re.sub(r"^classifier", "fc", name))


def _count_from_one(template: str):
    return lambda match: template.format(*(int(index) + 1 for index in match.groups()))


def _to_torch(array: np.ndarray) -> np.ndarray:
    return array.transpose({4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, tuple(range(array.ndim))))


def _from_torch(array: np.ndarray) -> np.ndarray:
    return array.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, tuple(range(array.ndim))))
