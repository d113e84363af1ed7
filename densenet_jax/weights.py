"""Loads and returns weights under PyTorch's names and in PyTorch's layouts; see `torch_names`."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from densenet_jax import weight_files
from densenet_jax.errors import InputError
from densenet_jax.torch_names import HEADS, naming

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# PyTorch counts batches beside each BatchNorm. No network here needs the count.
_IGNORED = "num_batches_tracked"
# A file may hold so many times the bytes of the network: wider types, or a larger classifier.
_MOST_NETWORKS = 16
_LEAST_MAX_BYTES = 2**28  # Of the tensors in a file for a network however small.
_SHOWN = 3  # Names of each kind in an error message; the others are counted.


def load_torch(
    model: nnx.Module, source: Mapping[str, np.ndarray] | str | Path, head: bool | None = True
) -> None:
    """Sets all parameters and running statistics of `model` from `source`.

    Arrays whose names have no dot belong to no layer, such as the `op_threshs` of torchxrayvision.
    They are ignored with a logged warning.

    Args:
      model: a DenseNet, an RDNet, or a ResNet without pre-activation; changed in place, and not
        changed at all after an error.
      source: PyTorch name to array in PyTorch's layout (convolutions OIHW, linear out x in); or a
        file of them, or `hf:REPOSITORY`, see `weight_files.read`. Names are those of torchvision,
        old and new, of timm, of mmpretrain, or of the memory-efficient PyTorch DenseNet, after any
        common prefix such as `module.`.
      head: whether to set the classifier. False: the classifier of `source` may have any shape.
        None: sets it if `source` has all of its arrays in the right shapes, and otherwise logs a
        warning with the reason.

    Raises:
      InputError: names are missing or unexpected, shapes differ, or values are not floats, NaN or
        infinite; the message lists them. Or the file cannot be read, or has far more bytes of
        tensors than the network, or the network has no PyTorch names.
    """
    of = "these weights" if isinstance(source, Mapping) else f"the weights in {source}"
    names, ours = naming(model), to_torch(model)
    expected = {name: array.shape for name, array in ours.items()}
    if isinstance(source, Mapping):
        arrays = source
    else:
        needed = sum(array.nbytes for array in ours.values())
        arrays = weight_files.read(source, max(_LEAST_MAX_BYTES, _MOST_NETWORKS * needed))
    if unnamed := [name for name in arrays if not isinstance(name, str)]:
        raise InputError(
            f"{of} have a key of type {type(unnamed[0]).__name__}: name arrays by strings"
        )
    translations = names.translate(
        [name for name in arrays if not name.endswith(_IGNORED)], expected
    )
    given = {name: _as_array(of, theirs, arrays[theirs]) for theirs, name in translations.items()}
    if without_layer := [name for name in given if "." not in name and name not in expected]:
        given = {name: array for name, array in given.items() if name not in without_layer}
        _warn("%s: ignored %s, which belong to no layer", of, _few(without_layer))
    if head is None:
        of_head = {n: shape for n, shape in expected.items() if n.startswith(names.head)}
        given_head = {n: array for n, array in given.items() if n in of_head}
        problems = _problems(given_head, of_head, {})
        head = not problems
        if problems:
            _warn("%s: the classifier stays new: %s", of, problems)
    if not head:
        expected = {n: shape for n, shape in expected.items() if not n.startswith(names.head)}
        given = {n: a for n, a in given.items() if n in expected or not n.startswith(HEADS)}
    originals = {ours: theirs for theirs, ours in translations.items()}
    if problems := _problems(given, expected, originals):
        raise InputError(
            f"{of} are not this network's: {problems}: choose the model and its num_classes to fit"
        )
    _refuse_not_float(of, given)
    with np.errstate(over="ignore"):  # What becomes infinite is refused.
        given = {name: a.astype(ours[name].dtype, copy=False) for name, a in given.items()}
    refuse_not_finite(of, given)
    for variable, torch_names, is_stack in _named_variables(model):
        if torch_names[0] in expected:
            layers = [_from_torch(given[name]) for name in torch_names]
            array = np.stack(layers) if is_stack else layers[0]
            variable[...] = jax.device_put(array)


def to_torch(model: nnx.Module) -> dict[str, np.ndarray]:
    """Returns all parameters and running statistics of `model`, in PyTorch's names and layouts.

    Works as well on a model merged from gradients. Raises InputError for a network that has no
    PyTorch names.
    """
    arrays = {}
    for variable, names, is_stack in _named_variables(model):
        array = np.asarray(variable[...])
        arrays |= zip(names, map(_to_torch, array if is_stack else [array]), strict=True)
    return arrays


def _as_array(of: str, name: str, value: object) -> np.ndarray:
    """Returns `value` as an array. Raises InputError if it is none."""
    try:
        array = np.asarray(value)
    except Exception as error:  # Of ragged lists, and of tensors on other devices.
        raise InputError(f"{of} have no array as {name} ({error}): give NumPy arrays") from error
    return array


def _refuse_not_float(of: str, arrays: Mapping[str, np.ndarray]) -> None:
    wrong = [
        f"{name} has dtype {array.dtype} instead of a float"
        for name, array in arrays.items()
        if not jnp.issubdtype(array.dtype, jnp.floating)
    ]
    if wrong:
        raise InputError(f"in {of}, {_few(wrong)}: save parameters as float32")


def refuse_not_finite(of: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises InputError if an array has a NaN or infinite value; `of` begins the message."""
    if wrong := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise InputError(
            f"{of} have NaN or infinite values in {len(wrong)} of {len(arrays)} arrays, "
            f"{_few(wrong)}: use an earlier checkpoint"
        )


def _problems(
    given: dict[str, np.ndarray],
    expected: dict[str, tuple[int, ...]],
    originals: dict[str, str],
) -> str:
    """Returns how `given` differs from `expected`, or "".

    Unexpected arrays have the names in `originals`, so that the user finds them in the file.
    """
    missing = [f"{name} {shape}" for name, shape in expected.items() if name not in given]
    unexpected = [
        f"{originals[name]} {array.shape}" for name, array in given.items() if name not in expected
    ]
    different = [
        f"{name} has shape {given[name].shape} instead of {shape}"
        for name, shape in expected.items()
        if name in given and given[name].shape != shape
    ]
    found = {"missing ": missing, "unexpected ": unexpected, "": different}
    return "; ".join(kind + _few(names) for kind, names in found.items() if names)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _warn(message: str, *arguments: str) -> None:
    logging.getLogger("densenet_jax").warning(message, *arguments)


class _NamedVariable(NamedTuple):
    """A variable and its names in PyTorch: one for each block of a stack, else a single one."""

    variable: nnx.Variable
    names: list[str]
    is_stack: bool


def _named_variables(model: nnx.Module) -> list[_NamedVariable]:
    names, named = naming(model), []
    for path, variable in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        *parents, leaf = map(str, path)
        name = ".".join([*parents, _LEAVES.get(leaf, leaf)])
        is_stack = "rest" in parents
        # The first block of a stage is not in the stack, see `models.resnet.Stage`.
        blocks = range(1, 1 + variable.shape[0]) if is_stack else [0]
        torch_names = [names.of_ours(name, block) for block in blocks]
        named.append(_NamedVariable(variable, torch_names, is_stack))
    return named


def _to_torch(array: np.ndarray) -> np.ndarray:
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, tuple(range(array.ndim)))
    return np.ascontiguousarray(array.transpose(axes))  # safetensors ignores strides.


def _from_torch(array: np.ndarray) -> np.ndarray:
    return array.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, tuple(range(array.ndim))))
