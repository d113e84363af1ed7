"""Loads networks from run directories, for use or for further training."""

import logging
from pathlib import Path
from typing import NamedTuple

import jax
from flax import nnx

from densenet_jax import weights
from densenet_jax.errors import InputError, counted
from densenet_jax.models.catalog import FAMILIES
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.record import RunDirectory, with_tuples

_HEAD = "classifier"


class Trained(NamedTuple):
    """A trained network.

    Attributes:
      model: the network with its parameters and running statistics.
      description: model.json of its run: `classes`, `crop`, `mean`, `std` and so on.
    """

    model: nnx.Module
    description: dict


def load(workdir: str | Path, checkpoint: str = "last", **overrides) -> Trained:
    """Loads the network of a run, with the weights of its "last" or its "best" checkpoint.

    `overrides` may change fields of the network's config that change no parameter: `dtype`,
    `remat`.

    Raises InputError if there is no such run or no whole checkpoint.
    """
    run = RunDirectory(workdir)
    description = with_tuples(run.model())
    families = {family.__name__: family for family in FAMILIES}
    try:
        family = families[description["family"]]
        config = family(**description["settings"] | overrides)
    except (KeyError, TypeError) as error:
        raise InputError(f"{run.path / 'model.json'} is damaged ({error}): restore it.") from error
    model = FAMILIES[family](config, rngs=nnx.Rngs(0))
    kinds = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
    like = {name: nnx.to_pure_dict(nnx.state(model, kind)) for name, kind in kinds.items()}
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        found = checkpoints.restore_model(like, checkpoint)
    for name, kind in kinds.items():
        state = nnx.state(model, kind)
        nnx.replace_by_pure_dict(state, jax.tree.map(jax.device_put, found[name]))
        nnx.update(model, state)
    return Trained(model, description)


def start_from(model: nnx.Module, source: str) -> None:
    """Sets the parameters and running statistics of `model`.

    The classifier stays new if that of `source` has another shape. A logged warning tells so.

    Args:
      source: a run directory of the same network; or what `weights.load_torch` reads.

    Raises:
      InputError: `source` cannot be read, belongs to another network, or has NaN or infinite
        values.
    """
    if not Path(source).expanduser().is_dir():
        weights.load_torch(model, source, head=None)
        return
    ours, theirs = (
        dict(nnx.to_flat_state(nnx.state(m, (nnx.Param, nnx.BatchStat))))
        for m in (model, load(source).model)
    )
    different = [
        ".".join(map(str, path))
        for path in sorted(ours.keys() | theirs.keys(), key=str)
        if path not in ours or path not in theirs or ours[path].shape != theirs[path].shape
    ]
    if others := [name for name in different if not name.startswith(_HEAD)]:
        raise InputError(
            f"{source} is of another network, which differs in {counted(len(others), 'array')}, "
            f"such as {', '.join(others[:3])}"
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
