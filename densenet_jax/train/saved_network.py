"""Loads trained networks from run directories, for use or for further training."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from densenet_jax import weights
from densenet_jax.data.pictures import CentralCrop
from densenet_jax.errors import InputError, counted
from densenet_jax.models.catalog import FAMILIES, describe
from densenet_jax.models.network import Network, NetworkConfig
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.record import RunDirectory, with_tuples

_HEAD, _STEM = "classifier", "conv0.kernel"
_LARGEST = 1e9  # Largest mean or deviation of pixel values, which become float32.


class SavedNetwork(NamedTuple):
    """A trained network of a run.

    Attributes:
      model: the network with its parameters and running statistics.
      description: model.json of the run: `classes`, `crop`, `mean`, `std` and so on.
    """

    model: Network
    description: dict


def load_network(workdir: str | Path, checkpoint: str = "last", **overrides) -> SavedNetwork:
    """Loads the network of a run, with the weights of its "last" or its "best" checkpoint.

    Of a run that averages its weights these are the averages.

    A record of a run may have `model.safetensors` instead of checkpoints.

    `overrides` may change fields of the network's config that change no parameter: `dtype`,
    `remat`, `block`.

    Raises InputError if the run or a readable checkpoint is missing, if a value of model.json is
    impossible, or if the checkpoint has other arrays than the network or a NaN or infinite value.
    """
    run = RunDirectory(workdir)
    description = with_tuples(run.model())
    try:
        config = _config(description, overrides)
        _check_description(description, config)
        model = FAMILIES[type(config)](config, rngs=nnx.Rngs(0))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{run.path / 'model.json'} is damaged ({reason}): restore it") from error
    stored = run.path / "model.safetensors"
    if stored.exists() and not run.has_checkpoint():  # A record of a run.
        weights.load_torch(model, stored)
        return SavedNetwork(model, description)
    kinds = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
    like = {name: nnx.to_pure_dict(nnx.state(model, kind)) for name, kind in kinds.items()}
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        if description.get("averaged"):
            found = checkpoints.restore_model({"average": like}, checkpoint)["average"]
        else:
            found = checkpoints.restore_model(like, checkpoint)
    _check_arrays(run, found, like)
    for name, kind in kinds.items():
        state = nnx.state(model, kind)
        nnx.replace_by_pure_dict(state, jax.tree.map(jax.device_put, found[name]))
        nnx.update(model, state)
    return SavedNetwork(model, description)


def _config(description: dict, overrides: dict) -> NetworkConfig:
    """Returns the config of the network. Raises ValueError and others for impossible values."""
    families = {family.__name__: family for family in FAMILIES}
    family, settings = description["family"], description["settings"]
    if not isinstance(family, str) or family not in families:
        raise ValueError(f"family is {family!r:.200}, not one of {', '.join(families)}")
    if not isinstance(settings, dict):
        raise ValueError(f"settings is {settings!r:.200}, not an object")
    return families[family](**settings | overrides)


def _check_description(description: dict, config: NetworkConfig) -> None:
    """Raises ValueError, KeyError or TypeError if `description` cannot prepare pictures."""
    classes, crop = description["classes"], description["crop"]
    if classes is not None and not (
        isinstance(classes, tuple)
        and all(isinstance(name, str) for name in classes)
        and len(classes) <= config.num_classes
    ):
        raise ValueError(f"classes is not a list of at most {counted(config.num_classes, 'name')}")
    if not isinstance(crop, dict):
        raise ValueError(f"crop is {crop!r:.200}, not an object")
    CentralCrop(**crop)
    if not isinstance(description["preprocessing"], str):
        raise ValueError(f"preprocessing is {description['preprocessing']!r:.200}, not a name")
    for name, least in (("mean", -_LARGEST), ("std", 0)):
        values = description[name]
        if not (
            isinstance(values, tuple)
            and len(values) == config.in_channels
            and all(type(value) in (int, float) and least < value < _LARGEST for value in values)
        ):
            above = " above 0" if name == "std" else ""
            raise ValueError(
                f"{name} is {values!r:.200}, not a number{above} for each of "
                f"{counted(config.in_channels, 'channel')}"
            )


def _check_arrays(run: RunDirectory, found: dict, like: dict) -> None:
    """Raises InputError if `found` has other shapes than `like`, or values that are not finite."""
    arrays, expected = (_by_name(tree) for tree in (found, like))
    different = [
        f"{name} has shape {array.shape} instead of {expected[name].shape}"
        for name, array in arrays.items()
        if array.shape != expected[name].shape
    ]
    if different:
        raise InputError(
            f"the checkpoint of {run.path} differs from the network in model.json in "
            f"{counted(len(different), 'array')} ({'; '.join(different[:3])}): restore model.json"
        )
    weights.refuse_not_finite(f"the weights in {run.path}", arrays)


def _by_name(tree: dict) -> dict[str, np.ndarray]:
    """Returns the arrays of `params` and `batch_stats` by name."""
    return {
        ".".join(str(key.key) for key in path[1:]): array
        for path, array in jax.tree.leaves_with_path(tree)
    }


def start_from(model: Network, source: str) -> str:
    """Sets the parameters and running statistics of `model`; returns what was set, as a sentence.

    Leaves the classifier new, with a warning, if the classifier of `source` has another shape. A
    first convolution for other channels is fitted, see `weights.load_torch`.

    Args:
      source: a run directory of the same network, a directory that `launch.export` wrote, or a
        source that `weights.load_torch` reads.

    Raises:
      InputError: `source` cannot be read, belongs to another network, or has NaN or infinite
        values.
    """
    directory = Path(source).expanduser()
    if not directory.is_dir():
        return _start_from_arrays(model, source, source)
    exported = directory / "model.safetensors"
    if exported.exists() and not (directory / "model.json").exists():
        return _start_from_arrays(model, exported, source)
    trained = load_network(source).model
    ours, theirs = (
        dict(nnx.to_flat_state(nnx.state(m, (nnx.Param, nnx.BatchStat)))) for m in (model, trained)
    )
    different = [
        ".".join(map(str, path))
        for path in sorted(ours.keys() | theirs.keys(), key=str)
        if path not in ours or path not in theirs or ours[path].shape != theirs[path].shape
    ]
    others = [name for name in different if not name.startswith(_HEAD)]
    if others == [_STEM] and model.config.in_channels != trained.config.in_channels:
        return _start_from_arrays(model, weights.to_torch(trained), source)
    if others:
        name, settings = describe(trained.config)
        of_the_data = ("num_classes", "in_channels")
        needed = {k: v for k, v in settings.items() if k not in of_the_data and v is not None}
        text = " and ".join([name, *(f"model.{key} to {value}" for key, value in needed.items())])
        raise InputError(
            f"{source} has another network, which differs in {counted(len(others), 'array')}, "
            f"such as {', '.join(others[:3])}: set model.name to {text}"
        )
    if different:
        logging.getLogger("densenet_jax").warning(
            "%s: the classifier stays new: other shapes of %s", source, ", ".join(different)
        )
    loaded = [path for path in ours if path[0] != _HEAD or not different]
    found = {".".join(map(str, path)): theirs[path][...] for path in loaded}
    weights.refuse_not_finite(f"the weights in {source}", found)
    for path, array in zip(loaded, found.values(), strict=True):
        ours[path][...] = array.astype(ours[path].dtype)
    return _loaded(source, len(loaded), bool(different), model)


def _start_from_arrays(
    model: Network, arrays: Mapping[str, np.ndarray] | str | Path, source: str
) -> str:
    head = nnx.state(getattr(model, _HEAD), nnx.Param)
    new = jax.tree.map(np.asarray, nnx.to_pure_dict(head))
    weights.load_torch(model, arrays, head=None)
    is_new = all(map(np.array_equal, jax.tree.leaves(new), jax.tree.leaves(head)))
    return _loaded(source, len(weights.to_torch(model)) - is_new * len(new), is_new, model)


def _loaded(source: str, arrays: int, is_new: bool, model: Network) -> str:
    count = counted(model.config.num_classes, "class")
    rest = f"; the classifier of {count} is new" if is_new else ", with the classifier"
    return f"{source}: {counted(arrays, 'array')} loaded{rest}"
