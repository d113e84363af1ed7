"""Evaluation, compilation, randomness and devices."""

import dataclasses
import re

import jax
import numpy as np
import pytest
import small

from densenet_jax.errors import InputError
from densenet_jax.train.config import check_config
from densenet_jax.train.fit import fit
from densenet_jax.train.keys import KEYS
from densenet_jax.train.trainer import Trainer


def initial_state(trainer):
    """Returns a copy of the initial state, because training donates its arguments."""
    return jax.tree.map(lambda leaf: leaf.copy(), trainer.initial_state)


def train_epoch(trainer, state, epoch):
    """Trains an epoch; returns the state and the totals."""
    totals = trainer.totals()
    for dispatch in trainer.epoch(epoch):
        state, totals = trainer.train(state, totals, dispatch, epoch)
    return state, totals


@pytest.mark.parametrize("eval_batch_size", [90, 100])
def test_evaluation_counts_every_example_once(eval_batch_size):
    """360 test images are four batches of 90; the last batch of 100 is short."""
    changes = {"eval_batch_size": eval_batch_size, "data.holdout": 437}
    trainer = Trainer(small.config(small.PLAIN | changes))
    values = trainer.evaluate(trainer.initial_state)
    model, data = trainer._context.model(trainer.initial_state), trainer.data
    for name, split, size in (("validation", data.validation, 437), ("test", data.test, 360)):
        assert len(split.labels) == size
        images = (split.images - np.float32(data.mean)) / np.float32(data.std)
        logits = np.asarray(jax.jit(model)(images), np.float64)
        right = logits[np.arange(size), split.labels]
        loss = np.log(np.exp(logits).sum(1)) - right
        assert values[f"{name}_loss"] == pytest.approx(loss.mean(), rel=1e-5)
        wrong = np.sum(logits.argmax(1) != split.labels)
        assert values[f"{name}_error"] == pytest.approx(100 * wrong / size, rel=1e-6)


def test_an_epoch_trains_on_every_example_once(trainer):
    """An extra step would change the number of examples, a missing step that of steps."""
    state, totals = train_epoch(trainer, initial_state(trainer), 0)
    assert float(totals.examples) == len(trainer.data.train.labels) == 1400
    assert int(state.step) == trainer.steps_per_epoch == small.STEPS_PER_EPOCH


def test_a_run_compiles_its_step_once(tmp_path, caplog):
    with jax.log_compiles():
        fit(small.config(), tmp_path / "run")
    compiled = [m for m in caplog.messages if m.startswith("Finished XLA compilation of jit(")]
    assert sum("jit(train_steps)" in message for message in compiled) == 1
    # One program is for the validation set and one for the test set.
    assert sum("jit(eval_steps)" in message for message in compiled) == 2


def test_later_epochs_compile_nothing(trainer, caplog):
    state, _ = train_epoch(trainer, initial_state(trainer), 0)
    trainer.evaluate(state)
    with jax.log_compiles():
        for epoch in (1, 2):
            state, _ = train_epoch(trainer, state, epoch)
            trainer.evaluate(state)
        assert not caplog.messages
        jax.jit(lambda x: x + 1)(1)
        assert caplog.messages  # The log does record compilations.


@pytest.mark.parametrize("split", ["train", "test"])
def test_matmul_precision_follows_the_config(split):
    """Checks all convolutions and products, in training and in evaluation."""
    found = {}
    for precision in (None, "default", "highest"):
        trainer = Trainer(small.config(small.PLAIN | {"matmul_precision": precision}))
        text = trainer.lower(split).as_text()
        pattern = r"precision(?:_config)? = \[(?:#stablehlo<precision )?(\w+)"
        found[precision] = re.findall(pattern, text)
    products = len(found[None])
    assert products > 2
    assert found[None] == found["default"] == products * ["DEFAULT"]
    assert found["highest"] == products * ["HIGHEST"]


def test_kernels_that_cannot_be_used_are_named(caplog):
    Trainer(small.config(small.PLAIN | {"model.block": "kernels"}))
    assert not caplog.messages
    Trainer(small.config(small.PLAIN | {"model.block": "kernels", "model.remat": "layer"}))
    assert caplog.messages == [
        "model.block is kernels, but dense blocks use plain JAX: remat is layer"
    ]


def test_a_wrong_matmul_precision_is_refused():
    with pytest.raises(InputError, match="matmul_precision is 'hi': choose one of default, high, "):
        Trainer(small.config({"matmul_precision": "hi"}))


def test_jax_accepts_every_matmul_precision():
    for name in KEYS["matmul_precision"].choices:
        check_config(small.config({"matmul_precision": name}))
        with jax.default_matmul_precision(name):
            jax.jit(lambda x: x @ x).lower(np.ones((2, 2)))


def test_augmentation_depends_on_the_epoch_and_dropout_on_the_step(trainer):
    def loss(epoch, step):
        state = initial_state(trainer)
        state = dataclasses.replace(state, step=state.step + step)
        dispatch = next(trainer.epoch(0))
        _, totals = trainer.train(state, trainer.totals(), dispatch, epoch)
        return float(totals.loss)

    assert loss(0, 0) == loss(0, 0)
    assert len({loss(0, 0), loss(1, 0), loss(0, 1)}) == 3


def test_the_seed_changes_the_initial_weights():
    states = [Trainer(small.config({"seed": seed})).initial_state for seed in (0, 0, 1)]
    kernels = [np.asarray(state.params["conv0"]["kernel"]) for state in states]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).all()
