"""Accumulated gradients equal those of the whole batch with batch statistics over its parts."""

import dataclasses

import jax
import numpy as np
import pytest
import small

from densenet_jax.data.batches import PADDING
from densenet_jax.errors import InputError
from densenet_jax.train.trainer import Trainer

# Dropout and each augmentation of a batch are on; the last batch of an epoch is short.
ALL = {
    "dtype": "float64",
    "batch_size": 24,
    "data.examples": 60,
    "data.holdout": 0,
    "model.block_config": (1,),
    "model.bottleneck": 0,
    "data.mixup": 1.0,
}


def end_of_epoch(changes, unroll=True):
    """Returns the train state and the totals after an epoch."""
    trainer = Trainer(small.config(ALL | changes))
    trainer._context = dataclasses.replace(trainer._context, unroll=unroll)
    state, totals = trainer.initial_state, trainer.totals()
    for dispatch in trainer.epoch(0):
        state, totals = trainer.train(state, totals, dispatch, 0)
    assert int(state.step) == 3  # Steps of the optimiser.
    assert (np.asarray(dispatch.indices) == PADDING).sum() == 12
    return jax.device_get((state, totals))


def test_parts_of_a_batch_equal_the_batch(float64):
    """The second part of the last batch is padding alone."""
    whole = end_of_epoch({"model.bn_group_size": 12})
    parts = end_of_epoch({"accumulate": 2})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), whole, parts)


@pytest.mark.slow
def test_a_loop_over_the_parts_equals_the_batch(float64):
    """GPUs and TPUs loop over the parts; CPUs unroll them."""
    whole = end_of_epoch({"model.bn_group_size": 12})
    parts = end_of_epoch({"accumulate": 2}, unroll=False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), whole, parts)


def test_devices_must_share_each_part():
    with pytest.raises(InputError, match="batch_size 24 in 3 parts cannot be shared equally by 16"):
        Trainer(small.config(ALL | {"accumulate": 3, "dtype": "float32"}), devices=[None] * 16)
