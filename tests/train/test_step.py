"""The optimiser, its schedule, and a training step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from densenet_jax.data.batches import Batch
from densenet_jax.train.config import base_config, drop_steps, steps_per_epoch
from densenet_jax.train.optimizer import sgd, step_schedule
from densenet_jax.train.step import train_step, train_steps
from densenet_jax.train.trainer import Trainer

SHAPES = {"kernel": (3, 3, 2, 4), "scale": (4,), "bias": (4,)}
STEPS, DROPS, WEIGHT_DECAY = 7, (2, 5), 0.01
RATES = [0.1] * 2 + [0.01] * 3 + [0.001] * 2


def draw(seed):
    random = np.random.default_rng(seed)
    return {name: random.normal(size=shape) for name, shape in SHAPES.items()}


def our_sgd(momentum):
    """Returns the parameters after some steps of our optimiser."""
    optimizer = sgd(step_schedule(0.1, DROPS), momentum, WEIGHT_DECAY)
    params = jax.tree.map(jnp.asarray, draw(0))
    state = optimizer.init(params)
    for step in range(STEPS):
        updates, state = optimizer.update(draw(1 + step), state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_sgd_follows_its_formula(float64, momentum):
    params, velocity = draw(0), {name: 0.0 for name in SHAPES}
    for step, rate in enumerate(RATES):
        for name, gradient in draw(1 + step).items():
            gradient = gradient + WEIGHT_DECAY * params[name]
            velocity[name] = momentum * velocity[name] + gradient
            params[name] = params[name] - rate * (gradient + momentum * velocity[name])
    ours = our_sgd(momentum)
    for name in SHAPES:
        np.testing.assert_allclose(ours[name], params[name], rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_sgd_gives_the_steps_of_pytorch(float64, momentum):
    torch = pytest.importorskip("torch")
    params = {name: torch.tensor(value, requires_grad=True) for name, value in draw(0).items()}
    optimizer = torch.optim.SGD(
        params.values(),
        lr=0.1,
        momentum=momentum,
        nesterov=bool(momentum),
        weight_decay=WEIGHT_DECAY,
    )
    for step, rate in enumerate(RATES):
        optimizer.param_groups[0]["lr"] = rate
        for name, gradient in draw(1 + step).items():
            params[name].grad = torch.tensor(gradient)
        optimizer.step()
    ours = our_sgd(momentum)
    for name in SHAPES:
        np.testing.assert_allclose(ours[name], params[name].detach().numpy(), rtol=1e-12)


def rates_of_epochs(config, examples):
    """Returns the learning rates at the first and at the last step of each epoch."""
    schedule = step_schedule(config.learning_rate, drop_steps(config, examples))
    steps = steps_per_epoch(config, examples)
    first = np.arange(config.epochs) * steps
    return [np.asarray(jax.vmap(schedule)(at)) for at in (first, first + steps - 1)]


def test_the_rate_drops_in_epochs_150_and_225_of_300():
    """The authors count epochs from 1 and drop the rate in epochs 150 and 225."""
    for rates in rates_of_epochs(base_config(), 50_000):
        np.testing.assert_allclose(rates, [0.1] * 149 + [0.01] * 75 + [0.001] * 76, rtol=1e-6)


def test_the_rate_drops_in_epochs_20_and_30_of_40():
    """Checks the schedule of SVHN. Epochs count from 1."""
    config = base_config()
    config.epochs = 40
    for rates in rates_of_epochs(config, 604_388):
        np.testing.assert_allclose(rates, [0.1] * 19 + [0.01] * 10 + [0.001] * 11, rtol=1e-6)


def test_a_rate_without_drops_is_constant():
    assert float(step_schedule(0.1, ())(10**6)) == pytest.approx(0.1)


def test_the_short_last_batch_is_kept():
    config = base_config()
    assert steps_per_epoch(config, 50_000) == 782
    assert steps_per_epoch(config, 64) == 1
    assert steps_per_epoch(config, 65) == 2


@pytest.mark.slow
def test_padding_does_not_change_a_training_step(float64):
    """A short batch with padding gives the same step as the batch alone."""
    trainer = Trainer(small.config({**small.PLAIN, "dtype": "float64", "batch_size": 8}))
    step = jax.jit(functools.partial(train_step, context=trainer._context))
    random = np.random.default_rng(0)
    images, labels = random.normal(size=(8, 8, 8, 1)), np.arange(8)
    images[5:] *= 1000
    mask = np.array([1.0] * 5 + [0.0] * 3)
    padded = step(trainer.initial_state, Batch(images, labels, mask))
    alone = step(trainer.initial_state, Batch(images[:5], labels[:5], mask[:5]))
    assert float(padded[1].examples) == 5
    # The momentum in the state contains the gradients.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
    jax.tree.map(close, padded, alone)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), padded[0], trainer.initial_state)
    assert all(jax.tree.leaves(moved))


@pytest.mark.slow
def test_the_border_has_the_mean_colour():
    """Shifting images that have only the mean colour changes nothing."""
    trainer = Trainer(small.config({**small.PLAIN, "batch_size": 8, "data.augment": True}))
    images, labels = np.full((8, 8, 8, 1), 5, np.uint8), np.arange(8)
    losses = []
    for augmentation in (None, trainer._context.augmentation):
        context = dataclasses.replace(trainer._context, augmentation=augmentation, mean=(5.0,))
        steps = jax.jit(functools.partial(train_steps, context=context))
        indices = np.arange(8)[None]
        state, totals = trainer.initial_state, trainer.totals()
        _, totals = steps(state, totals, images, labels, indices, np.int32(0))
        losses.append(float(totals.loss))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
