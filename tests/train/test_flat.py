"""The train state as flat vectors, and how an epoch is divided into dispatches."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import small
from cases import slow_except

from densenet_jax.train.config import base_config
from densenet_jax.train.feed import steps_per_dispatch
from densenet_jax.train.flat import Packing
from densenet_jax.train.step import train_steps
from densenet_jax.train.trainer import Trainer

STEPS = {"batch_size": 8, "steps_per_dispatch": 3, "data.examples": 24, "data.augment": False}
STEPS |= {"ema_decay": 0.9, "clip_norm": 1.0}


def _end_of_steps(trainer: Trainer, flat: bool):
    """Returns the state and the totals after the first dispatch."""
    dispatch = next(trainer.epoch(0))
    assert dispatch.steps == 3
    context = dataclasses.replace(trainer._context, flat_loop=flat)
    steps = jax.jit(functools.partial(train_steps, context=context))
    return steps(trainer.initial_state, trainer.totals(), *dispatch, np.int32(0))


@pytest.mark.parametrize("dtype", slow_except(["float64"], ["float64", "bfloat16"]))
def test_flat_vectors_give_the_same_steps(dtype, float64):
    changes = {"dtype": dtype} | STEPS
    trainer = Trainer(small.config(small.PLAIN | {"model.bottleneck": 4} | changes))
    ends = [_end_of_steps(trainer, flat) for flat in (False, True)]
    assert jax.tree.structure(ends[0]) == jax.tree.structure(ends[1])
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    close = functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
    jax.tree.map(close, *ends)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), ends[1][0], trainer.initial_state)
    assert all(jax.tree.leaves(moved))


@pytest.mark.slow
def test_networks_may_have_no_running_statistics(float64):
    """Deeply-Supervised Nets have none. The losses of their companions count."""
    config = base_config()
    changes = {"data.name": "digits", "model.name": "dsn", "dtype": "float64"} | STEPS
    narrow = {"mlpconv_widths": (4, 4), "kernel_sizes": (3,), "companion_size": 8}
    config.update_from_flattened_dict(changes | {f"model.{k}": v for k, v in narrow.items()})
    trainer = Trainer(config)
    ends = [_end_of_steps(trainer, flat) for flat in (False, True)]
    assert not jax.tree.leaves(ends[1][0].batch_stats)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
    jax.tree.map(close, *ends)


def test_multipliers_turn_flat_vectors_off():
    """Multipliers find parameters by path, and a flat vector has no paths."""
    trainer = Trainer(small.config({**small.PLAIN, "learning_rate_multipliers": (("conv0", 0.0),)}))
    assert not trainer._context.flat_loop


def test_only_kernels_are_converted():
    tree = {"kernel": np.ones((3, 3, 2, 4), np.float32), "scale": np.arange(4, dtype=np.float32)}
    packing = Packing.of(tree)
    unpacked = packing.unpack(packing.pack(tree), kernels=jax.numpy.bfloat16)
    assert unpacked["kernel"].dtype == "bfloat16" and unpacked["scale"].dtype == "float32"
    jax.tree.map(np.testing.assert_array_equal, unpacked, tree)


@pytest.mark.parametrize(
    "steps, most, expected",
    [
        (938, 100, 67),  # Fashion-MNIST in batches of 64: 14 dispatches of one program.
        (782, 100, 46),
        (40, 100, 40),
        (23, 1, 1),
        (787, 100, 100),  # A prime number: the last dispatch has 87 steps.
        (7, 5, 5),
        (6, 4, 3),
    ],
)
def test_an_epoch_is_divided_into_equal_dispatches_if_possible(steps, most, expected):
    assert steps_per_dispatch(steps, most) == expected


@pytest.mark.slow
def test_the_last_dispatch_may_be_shorter():
    """Losses do not depend on how an epoch is divided."""
    losses = {}
    for most in (1, 5):
        changes = {"batch_size": 8, "data.examples": 56, "steps_per_dispatch": most}
        trainer = Trainer(small.config(small.PLAIN | changes))
        state, totals, steps = trainer.initial_state, trainer.totals(), []
        for dispatch in trainer.epoch(0):
            steps.append(dispatch.steps)
            state, totals = trainer.train(state, totals, dispatch, 0)
        assert steps == {1: [1] * 7, 5: [5, 2]}[most]
        assert int(state.step) == 7 and float(totals.examples) == 56
        losses[most] = float(totals.loss)
    assert losses[1] == pytest.approx(losses[5], rel=1e-5)
