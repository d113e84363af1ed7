"""The optimiser and its schedules, with the recipes of the compared networks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from densenet_jax.errors import InputError
from densenet_jax.train.config import base_config, check_config, drop_steps, steps_per_epoch
from densenet_jax.train.losses import Loss
from densenet_jax.train.optimizer import (
    after_evaluation,
    companion_weight,
    learning_rate,
    optimizer,
    plateau_factor,
)
from experiments.cvpr2017 import recipes

EXAMPLES = 50_000


def config(**changes):
    made = base_config()
    made.model.name, made.data.name = "densenet_bc_k12_d22", "cifar10"
    made.update_from_flattened_dict(changes)
    return made


def rates(made, steps):
    return np.asarray(jax.vmap(learning_rate(made, EXAMPLES))(jnp.asarray(steps)))


def test_the_cosine_schedule_follows_its_formula():
    made = config(learning_rate_schedule="cosine", epochs=10)
    steps = 10 * steps_per_epoch(made, EXAMPLES)
    at = np.arange(0, steps, 97)
    expected = 0.05 * (1 + np.cos(math.pi * at / steps))
    np.testing.assert_allclose(rates(made, at), expected, rtol=1e-4, atol=1e-7)


def test_plateaus_multiply_the_updates():
    """The second and third errors are no lower, nor are the fifth and sixth."""
    made = config(
        learning_rate_schedule="plateau",
        plateau_evaluations=2,
        learning_rate_drop_factor=0.5,
        momentum=0.0,
        weight_decay=0.0,
    )
    params = {"kernel": jnp.ones(3)}
    made_optimizer = optimizer(made, learning_rate(made, EXAMPLES), params)
    state, factors = made_optimizer.init(params), []
    for error in (9.0, 9.0, 9.5, 3.0, 3.0, 3.5, 2.0):
        state = after_evaluation(made, state, error)
        updates, state = made_optimizer.update(params, state, params)
        np.testing.assert_allclose(updates["kernel"], -0.1 * plateau_factor(state), rtol=1e-6)
        factors.append(plateau_factor(state))
    assert factors == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_plateaus_are_those_of_pytorch():
    """PyTorch drops the rate after one more evaluation than its patience."""
    torch = pytest.importorskip("torch")
    made = config(learning_rate_schedule="plateau", plateau_evaluations=3)
    state = optimizer(made, learning_rate(made, EXAMPLES), {}).init({"kernel": jnp.ones(3)})
    theirs = torch.optim.SGD([torch.ones(1)], lr=1.0)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, patience=2, eps=0)
    for error in 50 * 0.99 ** np.arange(60) + np.random.default_rng(0).uniform(0, 9, 60):
        schedule.step(error)
        state = after_evaluation(made, state, error)
        assert plateau_factor(state) == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-5)
    assert 0 < plateau_factor(state) < 1e-3


def test_a_factor_that_raises_the_rate_is_refused():
    changes = {"learning_rate_schedule": "plateau", "learning_rate_drop_factor": 1.0}
    made = config(**changes, **{"data.holdout": 100})
    with pytest.raises(InputError, match="learning_rate_drop_factor is 1, but the schedule"):
        check_config(made)


def test_warmup_comes_before_the_schedule():
    """ResNet-110 of He et al. has 400 steps at 0.01, then 0.1, and drops at 32,000 and 48,000."""
    made = recipes.resnet("resnet110", "c10+")
    np.testing.assert_allclose(
        rates(made, [0, 399, 400, 31_000]), [0.01, 0.01, 0.1, 0.1], rtol=1e-5
    )
    assert steps_per_epoch(made, EXAMPLES) * made.epochs == pytest.approx(64_000, rel=0.01)
    np.testing.assert_allclose(drop_steps(made, EXAMPLES), [32_000, 48_000], rtol=0.02)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (recipes.wide_resnet("wrn28_10", "c10+", "wrn28_10"),
         {1: 0.1, 59: 0.1, 60: 0.02, 120: 0.004, 160: 0.0008, 200: 0.0008}),
        (recipes.wide_resnet("wrn16_4_dropout", "svhn", "wrn16_4"),
         {1: 0.01, 79: 0.01, 80: 0.001, 120: 0.0001, 160: 0.0001}),
        (recipes.stochastic_depth("stochastic_depth110", "c10"),
         {1: 0.1, 249: 0.1, 250: 0.01, 375: 0.001, 500: 0.001}),
        (recipes.stochastic_depth("stochastic_depth110", "svhn"),
         {1: 0.1, 29: 0.1, 30: 0.01, 35: 0.001, 50: 0.001}),
        (recipes.preactivation_resnet("preresnet164", "c10+"),
         {1: 0.1, 80: 0.1, 81: 0.01, 122: 0.001, 200: 0.001}),
        (recipes.fractalnet("fractalnet21", "c10"),
         {1: 0.02, 199: 0.02, 200: 0.002, 300: 2e-4, 350: 2e-5, 375: 2e-6, 400: 2e-6}),
        (recipes.all_cnn("all_cnn", "c10"),
         {1: 0.05, 199: 0.05, 200: 0.005, 250: 5e-4, 300: 5e-5, 350: 5e-5}),
        (recipes.network_in_network("nin", "c10"),
         {1: 0.05, 200: 0.05, 201: 0.005, 231: 5e-4, 260: 5e-4}),
        (recipes.deeply_supervised("dsn", "c10"),
         {1: 0.025, 339: 0.025, 340: 1e-4, 400: 1e-4}),
        (recipes.imagenet("densenet121"),
         {1: 0.1, 30: 0.1, 31: 0.01, 60: 0.01, 61: 0.001, 90: 0.001}),
    ],
    ids=lambda value: value.model.name if hasattr(value, "model") else "",
)  # fmt: skip
def test_recipes_have_the_published_learning_rates(made, expected):
    """Compares the rates by epoch, counted from 1."""
    steps = [(epoch - 1) * steps_per_epoch(made, EXAMPLES) for epoch in expected]
    np.testing.assert_allclose(rates(made, steps), list(expected.values()), rtol=1e-4)


def test_drop_last_omits_the_short_batch():
    assert steps_per_epoch(config(**{"data.drop_last": True, "batch_size": 128}), EXAMPLES) == 390


def test_companions_fade_out():
    made = recipes.deeply_supervised("dsn", "c10")
    weight = companion_weight(made, EXAMPLES)
    # The weights are 0 after 50,000 of 200,000 steps.
    np.testing.assert_allclose(
        [weight(0), weight(25_000), weight(50_000), weight(150_000)],
        [0.001, 0.0005, 0, 0],
        rtol=1e-5,
    )


def params():
    return {"convs": {8: {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, 7: {"bias": jnp.ones(2)}}}


def one_update(made, gradient=3.0):
    made.weight_decay = 0.0
    chosen = optimizer(made, optax.constant_schedule(0.1), params())
    gradients = jax.tree.map(lambda leaf: gradient * leaf, params())
    updates, state = chosen.update(gradients, chosen.init(params()), params())
    return updates, chosen.update(gradients, state, params())[0]


def test_multipliers_change_the_parameters_that_they_match():
    multipliers = (("bias$", 2.0), ("^convs/8/", 0.1))
    updates, _ = one_update(config(learning_rate_multipliers=multipliers, momentum=0.0))
    plain = -0.1 * 3
    np.testing.assert_allclose(updates["convs"][8]["kernel"], 0.1 * plain, rtol=1e-6)
    np.testing.assert_allclose(updates["convs"][8]["bias"], 0.2 * plain, rtol=1e-6)
    np.testing.assert_allclose(updates["convs"][7]["bias"], 2 * plain, rtol=1e-6)


def test_a_multiplier_without_a_match_is_refused():
    with pytest.raises(InputError, match="'head' matches no parameter of densenet_bc_k12_d22"):
        one_update(config(learning_rate_multipliers=(("head", 2.0),)))


@pytest.mark.parametrize("multipliers", [("bias", 2), (("(", 2),), (("bias", -1),), (("a", "b"),)])
def test_malformed_multipliers_are_refused(multipliers):
    with pytest.raises(InputError, match="pairs of a regular expression and a factor"):
        check_config(config(learning_rate_multipliers=multipliers))


@pytest.mark.parametrize(("nesterov", "expected"), [(True, (1.9, 2.71)), (False, (1.0, 1.9))])
def test_momentum_follows_its_formula(nesterov, expected):
    for update, factor in zip(one_update(config(nesterov=nesterov)), expected, strict=True):
        np.testing.assert_allclose(update["convs"][8]["kernel"], -0.3 * factor, rtol=1e-6)


def test_squared_hinge_is_one_class_against_the_rest():
    logits = jnp.array([[2.0, -2.0, 0.5], [0.0, 0.0, 0.0]])
    found = Loss("squared_hinge")(logits, jnp.array([0, 1]))
    np.testing.assert_allclose(found, [0 + 0 + 1.5**2, 3])
