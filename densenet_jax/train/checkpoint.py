"""Checkpoints of a run, through Orbax: `checkpoints/STEP/{state,progress}`.

`state` is the train state as nested dicts of arrays, `progress` a JSON object.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from densenet_jax.errors import InputError
from densenet_jax.train.step import TrainState

KEPT = 2


class Checkpoints:
    """The checkpoints in a folder; saves in the background. A context manager."""

    def __init__(self, folder: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        self._manager.close()

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, progress: dict[str, Any]) -> None:
        """Starts saving; returns as soon as `state` may be donated. `progress` is JSON."""
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_as_dict(state)),
                progress=ocp.args.JsonSave(progress),
            ),
        )

    def wait(self) -> None:
        """Returns when all that was saved is on disk."""
        self._manager.wait_until_finished()

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint, with the shapes, types and shardings of `like`.

        Raises InputError if there is none.
        """
        step = self._manager.latest_step()
        if step is None:
            raise InputError(
                f"{self._manager.directory.parent} holds no checkpoint: train it first."
            )
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _as_dict(like)
        )
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(target), progress=ocp.args.JsonRestore()
            ),
        )
        return TrainState(**found.state), found.progress


def _as_dict(state: TrainState) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
