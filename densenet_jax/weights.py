"""Weights under PyTorch's names and in PyTorch's layouts, in and out.

Names are torchvision's: `features.conv0.weight`,
`features.denseblock1.denselayer1.norm1.running_mean`, `classifier.bias`, and so on.
"""

import re
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

from densenet_jax.errors import InputError

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# PyTorch counts batches beside each BatchNorm; nothing here depends on that.
_IGNORED = "num_batches_tracked"


def load_torch(model: nnx.Module, source: Mapping[str, np.ndarray]) -> None:
    """Sets all parameters and running statistics of `model` from `source`.

    Args:
      model: a network of the catalogue; changed in place, or not at all on an error.
      source: PyTorch name to array in PyTorch's layout (convolutions OIHW, linear out x in).

    Raises:
      InputError: names are missing or left over, or shapes differ; the sentence lists them.
    """
    variables = _torch_variables(model)
    given = {name: np.asarray(a) for name, a in source.items() if not name.endswith(_IGNORED)}
    expected = {name: _to_torch(variable).shape for name, variable in variables.items()}
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
    for name, variable in variables.items():
        variable[...] = jnp.asarray(_from_torch(given[name]), variable.dtype)


def to_torch(model: nnx.Module) -> dict[str, np.ndarray]:
    """All parameters and running statistics of `model`, by PyTorch name, in PyTorch's layouts.

    Works as well on a model merged from gradients.
    """
    return {name: _to_torch(variable) for name, variable in _torch_variables(model).items()}


def _torch_variables(model: nnx.Module) -> dict[str, nnx.Variable]:
    leaves = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    return {_densenet_name(path): variable for path, variable in leaves}


def _densenet_name(path: tuple) -> str:
    *parents, leaf = map(str, path)
    name = ".".join(parents)
    name = re.sub(r"^blocks\.(\d+)\.(\d+)", _count_from_one("denseblock{}.denselayer{}"), name)
    name = re.sub(r"^transitions\.(\d+)", _count_from_one("transition{}"), name)
    prefix = "" if name == "classifier" else "features."
    return f"{prefix}{name}.{_LEAVES[leaf]}"


def _count_from_one(template: str):
    return lambda match: template.format(*(int(index) + 1 for index in match.groups()))


def _to_torch(variable: nnx.Variable) -> np.ndarray:
    array = np.asarray(variable[...])
    return array.transpose({4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, tuple(range(array.ndim))))


def _from_torch(array: np.ndarray) -> np.ndarray:
    return array.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, tuple(range(array.ndim))))
