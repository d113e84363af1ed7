"""Loads and returns weights under PyTorch's names and in PyTorch's layouts; see `torch_names`."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from densenet_jax import weight_files, weight_fitting
from densenet_jax.errors import InputError, few
from densenet_jax.models.network import Network
from densenet_jax.torch_names import HEADS, TorchNames, names_for

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# PyTorch counts batches beside each BatchNorm. No network here needs the count.
_IGNORED = "num_batches_tracked"
# Limit on the bytes of tensors in a file, as a multiple of the network's: a file may have wider
# types or a larger classifier.
_MAX_BYTES_RATIO = 16
_LEAST_MAX_BYTES = 2**28  # The limit for small networks.


def load_torch(
    model: Network,
    source: Mapping[str, np.ndarray] | str | Path,
    head: bool | None = True,
    ema: bool = False,
) -> None:
    """Sets all parameters and running statistics of `model` from `source`.

    Logs a warning for each way in which the weights are fitted to the network:

    * A prefix of all names, such as `module.densenet121.`, is removed.
    * Arrays whose names have no dot belong to no layer, such as the `op_threshs` of
      torchxrayvision. Such arrays are ignored.
    * The only linear layer with an unexpected name, such as `classifier.1`, is the classifier.
    * A first convolution for grey or RGB pictures is fitted to the input channels of the network:
      for one channel its kernels are summed, otherwise repeated and scaled.

    Args:
      model: a DenseNet, an RDNet, or a ResNet without pre-activation. It is changed in place, and
        stays unchanged after an error.
      source: a mapping from PyTorch names to arrays in PyTorch's layouts (convolutions `[out, in,
        height, width]`, linear layers `[out, in]`), or a file of such arrays, or `hf:REPOSITORY`;
        see `weight_files.read`. Names may be those of torchvision (old or new), of timm, of
        MONAI, of torchxrayvision, of mmpretrain, or of the memory-efficient PyTorch DenseNet.
      head: whether to set the classifier. With False the classifier of `source` may have any shape.
        With None the classifier is set if `source` has all of its arrays in the right shapes;
        otherwise a warning with the reason is logged.
      ema: whether to load the averaged weights of a training checkpoint; see `weight_files.read`.

    Raises:
      InputError: names are missing or unexpected, shapes differ, or values are not finite floats;
        the message lists the names. Or the file cannot be read, the file has far more bytes of
        tensors than the network, or the network has no PyTorch names.

    >>> from flax import nnx
    >>> import densenet_jax as dj
    >>> ours = dj.create_model("densenet_bc_k4_d10", num_classes=10, rngs=nnx.Rngs(0))
    >>> theirs = dj.create_model("densenet_bc_k4_d10", num_classes=7, rngs=nnx.Rngs(1))
    >>> arrays = dj.weights.to_torch(theirs)
    >>> dj.weights.load_torch(ours, arrays, head=False)
    >>> bool((ours.conv0.kernel[...] == theirs.conv0.kernel[...]).all())
    True
    """
    subject = "these weights" if isinstance(source, Mapping) else f"the weights in {source}"
    names, present = names_for(model), to_torch(model)
    expected = {name: array.shape for name, array in present.items()}
    notes: list[str] = []  # Logged after all checks.
    arrays = _read(source, sum(array.nbytes for array in present.values()), ema)
    given, originals = _translate(subject, arrays, names, expected, notes)
    classifier = None
    if not any(name.startswith(names.head) for name in expected):
        head = False
        if any(name.startswith(HEADS) for name in given):
            notes.append("the network has no classes, so the classifier is left out")
    else:
        classifier = weight_fitting.find_classifier(given, expected, names.head)
    if classifier is not None:
        renamed = {
            name: names.head + name.rpartition(".")[2]
            for name in given
            if name.rpartition(".")[0] == classifier
        }
        given = {renamed.get(name, name): array for name, array in given.items()}
        originals |= {renamed[name]: originals[name] for name in renamed}
    if head is None:
        of_head = {n: shape for n, shape in expected.items() if n.startswith(names.head)}
        given_head = {n: array for n, array in given.items() if n in of_head}
        problems = _problems(given_head, of_head, {})
        head = not problems
        if problems:
            notes.append(f"the classifier stays new: {problems}")
    if not head:
        expected = {n: shape for n, shape in expected.items() if not n.startswith(names.head)}
        given = {n: a for n, a in given.items() if n in expected or not n.startswith(HEADS)}
    elif classifier is not None:
        notes.append(f"{classifier} was taken for the classifier")
    stem, in_file = given.get(names.stem), dict(expected)
    if stem is not None and weight_fitting.can_fit(stem.shape, expected[names.stem]):
        in_file[names.stem] = stem.shape
    if problems := _problems(given, in_file, originals):
        raise InputError(
            f"{subject} are not this network's: {problems}: choose the model and its num_classes "
            "to fit"
        )
    _refuse_not_float(subject, given)
    with np.errstate(over="ignore"):  # Values that overflow become infinite and are refused below.
        given = {name: a.astype(present[name].dtype, copy=False) for name, a in given.items()}
        if in_file != expected:
            given[names.stem], how = weight_fitting.fit(given[names.stem], expected[names.stem][1])
            notes.append(f"{originals[names.stem]} has {how}")
    refuse_not_finite(subject, given)
    for note in notes:
        logging.getLogger("densenet_jax").warning("%s: %s", subject, note)
    for variable, torch_names, is_stack in _named_variables(model):
        if torch_names[0] in expected:
            layers = [_from_torch(given[name]) for name in torch_names]
            array = np.stack(layers) if is_stack else layers[0]
            variable[...] = jax.device_put(array)


def to_torch(model: Network) -> dict[str, np.ndarray]:
    """Returns all parameters and running statistics of `model`, under PyTorch's names.

    `model` may also be a network merged from gradients.

    Returns:
      Arrays in PyTorch's layouts, in the type of the parameters: convolutions `[out, in, height,
      width]`, linear layers `[out, in]`, and vectors `[channels]`.

    Raises:
      InputError: the family of the network has no PyTorch names.

    >>> from flax import nnx
    >>> import densenet_jax as dj
    >>> model = dj.create_model("densenet_bc_k4_d10", num_classes=10, rngs=nnx.Rngs(0))
    >>> arrays = dj.weights.to_torch(model)
    >>> arrays["features.denseblock1.denselayer1.conv2.weight"].shape
    (4, 16, 3, 3)
    """
    arrays: dict[str, np.ndarray] = {}
    for variable, names, is_stack in _named_variables(model):
        array = np.asarray(variable[...])
        arrays |= zip(names, map(_to_torch, array if is_stack else [array]), strict=True)
    return arrays


def _read(
    source: Mapping[str, np.ndarray] | str | Path, needed_bytes: int, ema: bool
) -> Mapping[str, np.ndarray]:
    """Returns the arrays of `source` by name, for a network of `needed_bytes`."""
    if not isinstance(source, Mapping):
        max_bytes = max(_LEAST_MAX_BYTES, _MAX_BYTES_RATIO * needed_bytes)
        return weight_files.read(source, max_bytes, ema)
    if ema:
        raise InputError(
            "a mapping has no averaged weights beside others: give the averaged arrays, without ema"
        )
    return source


def _translate(
    subject: str,
    arrays: Mapping[str, np.ndarray],
    names: TorchNames,
    expected: Mapping[str, tuple[int, ...]],
    notes: list[str],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns `arrays` by PyTorch's names, and the name in `arrays` for each of these names.

    Adds sentences about removed prefixes and ignored arrays to `notes`.
    """
    if unnamed := [name for name in arrays if not isinstance(name, str)]:
        raise InputError(
            f"{subject} have a key of type {type(unnamed[0]).__name__}: name arrays by strings"
        )
    translations, prefix = names.translate(
        [name for name in arrays if not name.endswith(_IGNORED)], expected
    )
    if prefix:
        count = sum(name.startswith(prefix) for name in translations)
        share = "all" if count == len(translations) else f"{count} of {len(translations)}"
        notes.append(f"{share} names begin with {prefix!r}, which was removed")
    given = {
        name: _as_array(subject, original, arrays[original])
        for original, name in translations.items()
    }
    if without_layer := [name for name in given if "." not in name and name not in expected]:
        given = {name: array for name, array in given.items() if name not in without_layer}
        notes.append(f"ignored {few(without_layer)}, which belong to no layer")
    return given, {name: original for original, name in translations.items()}


def _as_array(subject: str, name: str, value: object) -> np.ndarray:
    """Returns `value` as an array. Raises InputError if the conversion fails."""
    try:
        return np.asarray(value)
    except Exception as error:  # Libraries raise many kinds, such as for tensors on a GPU.
        raise InputError(
            f"in {subject}, {name} is not an array ({error}): give NumPy arrays"
        ) from error


def _refuse_not_float(subject: str, arrays: Mapping[str, np.ndarray]) -> None:
    wrong = [
        f"{name} has dtype {array.dtype} instead of a float"
        for name, array in arrays.items()
        if not jnp.issubdtype(array.dtype, jnp.floating)
    ]
    if wrong:
        raise InputError(f"in {subject}, {few(wrong)}: save parameters as float32")


def refuse_not_finite(subject: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises InputError if an array has a NaN or infinite value; `subject` begins the message."""
    if wrong := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise InputError(
            f"{subject} have NaN or infinite values in {len(wrong)} of {len(arrays)} arrays, "
            f"{few(wrong)}: use an earlier checkpoint"
        )


def _problems(
    given: dict[str, np.ndarray],
    expected: dict[str, tuple[int, ...]],
    originals: dict[str, str],
) -> str:
    """Returns a description of how `given` differs from `expected`, or "".

    Unexpected arrays appear under their names in the file, which `originals` holds.
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
    return "; ".join(kind + few(names) for kind, names in found.items() if names)


class _NamedVariable(NamedTuple):
    """A variable with its PyTorch names: one for each block of a stack, otherwise a single one."""

    variable: nnx.Variable
    names: list[str]
    is_stack: bool


def _named_variables(model: Network) -> list[_NamedVariable]:
    names, named = names_for(model), []
    for path, variable in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        *parents, leaf = map(str, path)
        name = ".".join([*parents, _LEAVES.get(leaf, leaf)])
        is_stack = "rest" in parents
        # The stack lacks the first block of a stage, see `models.resnet.Stage`.
        blocks = range(1, 1 + variable.shape[0]) if is_stack else [0]
        torch_names = [names.from_path(name, block) for block in blocks]
        named.append(_NamedVariable(variable, torch_names, is_stack))
    return named


def _to_torch(array: np.ndarray) -> np.ndarray:
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, tuple(range(array.ndim)))
    return np.ascontiguousarray(array.transpose(axes))  # safetensors ignores strides.


def _from_torch(array: np.ndarray) -> np.ndarray:
    return array.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, tuple(range(array.ndim))))
