"""Checkpoints restore the saved state, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from densenet_jax.errors import InputError
from densenet_jax.train import checkpoint
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.optimizer import sgd, step_schedule
from densenet_jax.train.step import TrainState


def make_state(step):
    random = np.random.default_rng(step)
    strange = np.array([0.0, -0.0, 1e-40, np.inf, -np.inf, np.nan], np.float32)
    params = {
        "kernel": jnp.asarray(random.normal(size=(3, 3, 4, 5)), jnp.float32),
        "half": jnp.asarray(random.normal(size=7), jnp.bfloat16),
        "strange": jnp.asarray(strange),
    }
    batch_stats = {"norm": {"mean": jnp.asarray(random.normal(size=5), jnp.float32)}}
    opt_state = sgd(step_schedule(0.1, (3,)), 0.9, 1e-4).init(params)
    opt_state = jax.tree.map(lambda leaf: leaf + 7, opt_state)
    return TrainState(jnp.asarray(step, jnp.int32), params, batch_stats, opt_state)


def empty(state):
    return jax.tree.map(jnp.zeros_like, state)


def test_values_are_restored_bit_for_bit(tmp_path):
    state, progress = make_state(3), {"training": 1.25, "total": 2.5}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == []
        checkpoints.save(state, progress)
    with Checkpoints(tmp_path) as checkpoints:
        restored, restored_progress = checkpoints.restore(like=empty(state))
    assert restored_progress == progress
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for given, found in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        assert given.dtype == found.dtype and given.sharding == found.sharding
        assert np.asarray(given).tobytes() == np.asarray(found).tobytes()


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (10, 20, 30, 40):
            state = make_state(step)
            checkpoints.save(state, {})
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["10", "20", "30", "40"][-checkpoint.KEPT :]
    assert len(kept) < 4
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps()[0] == 40
        restored, _ = checkpoints.restore(like=empty(state))
    np.testing.assert_array_equal(restored.params["kernel"], state.params["kernel"])


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step, best in ((10, 10), (20, 20), (30, 20), (40, 20), (50, 20)):
            checkpoints.save(make_state(step), {}, best=best)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [50, 40, 20]
        state, _ = checkpoints.restore(empty(make_state(20)), "best")
    np.testing.assert_array_equal(state.params["kernel"], make_state(20).params["kernel"])


def test_restoring_without_a_checkpoint_is_refused(tmp_path):
    message = "holds no checkpoint: train it first"
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(InputError, match=message):
        checkpoints.restore(empty(make_state(10)))


def test_a_state_may_be_donated_while_it_is_saved(tmp_path):
    """Saving continues in the background while training overwrites the memory of the state."""
    state = TrainState(jnp.asarray(1, jnp.int32), {"x": jnp.ones((1000, 1000))}, {}, {})
    expected = np.asarray(state.params["x"]).copy()
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, {})
        overwritten = overwrite(state.params["x"])
        assert (overwritten == -1).all()
    like = TrainState(jnp.asarray(0, jnp.int32), {"x": jnp.zeros((1000, 1000))}, {}, {})
    with Checkpoints(tmp_path) as checkpoints:
        restored, _ = checkpoints.restore(like)
    np.testing.assert_array_equal(restored.params["x"], expected)
