"""Averages of the weights: trained, evaluated, saved, resumed and loaded."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
import small
from cases import slow_except
from flax import nnx

from densenet_jax.errors import Preempted
from densenet_jax.train.averaging import recomputed, statistics_steps
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.fit import fit
from densenet_jax.train.preemption import Preemption, StopRequested
from densenet_jax.train.record import RunDirectory
from densenet_jax.train.saved_network import load_network
from densenet_jax.train.step import TrainState
from densenet_jax.train.trainer import Trainer

TINY = small.PLAIN | {"data.examples": 256, "data.holdout": 0, "model.dropout_rate": 0.0}
EMA = TINY | {"epochs": 3, "ema_decay": 0.9, "learning_rate_drops": ()}
SWA = TINY | {"epochs": 4, "swa_epochs": 3, "learning_rate_drops": ()}


def states_by_epoch(trainer):
    """Yields the train state at the end of each epoch, before and after `Trainer.average`."""
    state = trainer.initial_state
    for epoch in range(trainer.config.epochs):
        for dispatch in trainer.epoch(epoch):
            state, _ = trainer.train(state, trainer.totals(), dispatch, epoch)
        state = trainer.average(state, epoch)
        yield state


def as_numpy(tree):
    return jax.tree.map(np.array, tree)


@pytest.fixture(scope="module")
def ema_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("ema")
    return workdir, fit(small.config(EMA), workdir)


def test_each_step_moves_the_average():
    """The average is a sum over steps, with weights that fall by `ema_decay`."""
    trainer = Trainer(small.config(EMA))
    state = trainer.initial_state
    expected = as_numpy(state.weights)
    for dispatch in trainer.epoch(0):
        state, _ = trainer.train(state, trainer.totals(), dispatch, 0)
        expected = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, expected, as_numpy(state.weights))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
    jax.tree.map(close, as_numpy(state.average), expected)


def test_an_average_that_is_too_slow_is_reported(tmp_path, caplog):
    changes = EMA | {"epochs": 1}
    steps = Trainer(small.config(changes)).steps_per_epoch
    fit(small.config(changes), tmp_path)
    assert f"{100 * 0.9**steps:.0f} % of the average are still the initial weights" in caplog.text


def test_the_average_is_the_network_of_the_run(ema_run):
    workdir, result = ema_run
    assert result["test_error"] != result["raw_test_error"]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert all({"test_error", "raw_test_error"} <= line.keys() for line in lines)
    trainer = Trainer(small.config(EMA))
    with Checkpoints(RunDirectory(workdir).checkpoints, read_only=True) as checkpoints:
        state, _ = checkpoints.restore(trainer.state_like)
    assert trainer.evaluate(state)["test_error"] == result["test_error"]
    loaded = nnx.state(load_network(workdir).model, nnx.Param)
    jax.tree.map(
        np.testing.assert_array_equal,
        as_numpy(nnx.to_pure_dict(loaded)),
        as_numpy(state.average["params"]),
    )


@pytest.mark.parametrize("changes", slow_except([EMA], [EMA, SWA]), ids=["ema", "swa"])
def test_a_stopped_run_gives_the_same_bits(changes, tmp_path, monkeypatch):
    whole = fit(small.config(changes), tmp_path / "whole")
    stops = iter([False] * 9 + [True] + [False] * 100)

    def check(self, step):
        if next(stops):
            raise StopRequested("SIGTERM")

    monkeypatch.setattr(Preemption, "check", check)
    with pytest.raises(Preempted):
        fit(small.config(changes), tmp_path / "stopped")
    fit(small.config(changes), tmp_path / "stopped")
    metrics = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "stopped")]
    assert metrics[0] == metrics[1] and "raw_test_error" in metrics[0]
    assert whole["test_error"] != whole["raw_test_error"]


def test_the_mean_of_the_last_epochs_has_its_own_statistics():
    """The statistics are those of the training images under the mean parameters."""
    trainer = Trainer(small.config(SWA | {"batch_size": 64}))
    states = [as_numpy((state.params, state.average)) for state in states_by_epoch(trainer)]
    params = [of_epoch for of_epoch, _ in states]
    average = states[-1][1]
    expected = jax.tree.map(lambda *last: np.mean(last, axis=0), *params[-3:])
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
    jax.tree.map(close, average["params"], expected)
    # Before the averaging begins, the average is the network itself.
    jax.tree.map(close, states[0][1]["params"], params[0])
    model = trainer.untrained()
    nnx.update(model, average["params"])
    of_batches = []
    for dispatch in trainer.epoch(3):
        rows = np.asarray(dispatch.indices)[0]
        images = (np.asarray(dispatch.images)[rows] - np.array(trainer.data.mean)) / np.array(
            trainer.data.std
        )
        maps = np.asarray(model.conv0(images.astype(np.float32).transpose(0, 3, 1, 2)))
        of_batches.append((maps.mean((0, 2, 3)), maps.var((0, 2, 3), ddof=1)))
    found = average["batch_stats"]["blocks"][0][0]["norm1"]
    for name, values in zip(("mean", "var"), zip(*of_batches, strict=True), strict=True):
        np.testing.assert_allclose(found[name], np.mean(values, 0), rtol=1e-3, atol=1e-4)


def test_averaging_compiles_each_program_once(tmp_path, caplog):
    with jax.log_compiles():
        fit(small.config(SWA | {"data.augment": True, "data.mixup": 1.0}), tmp_path / "run")
    compiled = [m for m in caplog.messages if m.startswith("Finished XLA compilation of jit(")]
    for name in ("train_steps", "eval_steps", "statistics_steps"):
        assert sum(f"jit({name})" in message for message in compiled) == 1, name
    for name in ("moved", "recomputed"):  # Other tests may have compiled these.
        assert sum(f"jit({name})" in message for message in compiled) <= 1, name


def test_each_batch_of_the_statistics_has_its_own_dropout():
    """With the same masks in all batches, the statistics would be those of one mask."""
    trainer = Trainer(small.config(SWA | {"model.dropout_rate": 0.5}))
    network = dataclasses.replace(trainer.initial_state, opt_state=(), average=None)
    dispatch = next(trainer.epoch(0))
    step = jax.jit(functools.partial(statistics_steps, context=trainer._context))
    zeros = jax.tree.map(np.zeros_like, jax.device_get(network.batch_stats))
    sums = [np.int32(0), zeros]
    changes = []
    for _ in range(2):  # The same batch twice.
        batches, total = step(network, tuple(sums), *dispatch, np.int32(0))
        changes.append(jax.tree.map(lambda new, old: new - old, total, sums[1]))
        sums = [batches, total]
    assert int(sums[0]) == 2
    last = [of_batch["norm5"]["mean"] for of_batch in changes]
    assert np.abs(last[0] - last[1]).max() > 1e-3


def test_statistics_after_freezing_are_those_of_the_whole_network():
    """They are recomputed for BatchNorms that were frozen at first."""
    changes = {"freeze": "^(conv0|blocks)/", "freeze_epochs": 1, "epochs": 3, "swa_epochs": 2}
    trainer = Trainer(small.config(SWA | changes))
    state = trainer.initial_state
    for epoch in range(3):
        for dispatch in trainer.epoch(epoch):
            state, _ = trainer.train(state, trainer.totals(), dispatch, epoch)
        state = trainer.average(state, epoch)
        state = trainer.end_epoch(state, {"epoch": epoch + 1})
    network = TrainState(state.step, **state.average, opt_state=())
    zeros = jax.tree.map(np.zeros_like, jax.device_get(network.batch_stats))
    sums = np.int32(0), zeros
    for dispatch in trainer.epoch(2):
        step = functools.partial(statistics_steps, context=trainer._unfrozen)
        sums = jax.jit(step)(network, sums, *dispatch, np.int32(2))
    # The statistics of the average do not change when they are recomputed.
    again = recomputed(network.batch_stats, sums)
    found = (tree["blocks"][0][0]["norm1"]["mean"] for tree in (network.batch_stats, again))
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-5)
