"""Names of Orbax without a promise: the installed Orbax still has them."""

import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from densenet_jax.train import checkpoint, orbax_private
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.step import TrainState

MOVED = f"orbax-checkpoint {ocp.__version__} has changed this: correct train/orbax_private.py"


def test_checkpoints_are_renamed_from_an_unfinished_directory(tmp_path, monkeypatch):
    found = []

    def record(directory, step):
        found.append(orbax_private.unfinished_directory(directory, step))
        return found[-1]

    monkeypatch.setattr(checkpoint, "unfinished_directory", record)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(TrainState(jnp.asarray(3), {"kernel": jnp.ones(2)}, {}, ()), {})
    assert len(found) == 1 and found[0].name.startswith("3."), MOVED
    assert [path.name for path in tmp_path.iterdir()] == ["3"], MOVED


def test_a_missing_unfinished_directory_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected one"):
        orbax_private.unfinished_directory(tmp_path, 3)


def test_processes_can_wait_for_one_another():
    assert callable(ocp.multihost.get_barrier_sync_fn()), MOVED
    orbax_private.wait_for_processes(key="test", timeout_ms=1000)
