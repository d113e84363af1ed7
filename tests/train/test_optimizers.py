"""The optimisers, clipping, averages and schedules of modern recipes equal PyTorch's and timm's."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from densenet_jax.errors import InputError
from densenet_jax.train.config import base_config, check_config
from densenet_jax.train.optimizer import learning_rate, optimizer, unfrozen
from densenet_jax.train.step import moved

STEPS, RATE, DROP = 50, 0.01, 0.97
SHAPES = {
    "conv0": {"kernel": (3, 3, 4, 5), "bias": (5,)},
    "norm0": {"scale": (5,), "bias": (5,)},
    "classifier": {"kernel": (5, 6), "bias": (6,)},
}
# Norms of all parameters after 50 steps of PyTorch's and timm's optimisers.
CASES = {
    ("sgd", "all"): 14.715261967653,
    ("sgd", "kernels"): 14.833151084307,
    ("adamw", "all"): 14.739591089074,
    ("adamw", "kernels"): 14.753645427199,
    ("lamb", "all"): 14.551082168317,
    ("lamb", "kernels"): 14.565074632045,
    ("lion", "all"): 14.790757770678,
    ("lion", "kernels"): 14.804911068694,
    ("rmsprop", "kernels"): 14.968500654773,
}


def config(**changes):
    made = base_config()
    made.model.name, made.data.name = "densenet_bc_k12_d22", "cifar10"
    made.update_from_flattened_dict(changes)
    return made


def draw(seed: int) -> dict:
    random = np.random.default_rng(seed)
    return {
        k: {n: random.normal(size=s) for n, s in shapes.items()} for k, shapes in SHAPES.items()
    }


def norm(tree) -> float:
    return math.sqrt(sum(float((np.asarray(leaf) ** 2).sum()) for leaf in jax.tree.leaves(tree)))


def trained(made) -> dict:
    """Returns the parameters after 50 steps, `{module: {name: array}}`."""
    params = jax.tree.map(jnp.asarray, draw(0))
    chosen = optimizer(made, lambda step: RATE * DROP**step, params)
    state, update = chosen.init(params), jax.jit(chosen.update)
    for step in range(STEPS):
        updates, state = update(draw(1 + step), state, params)
        params = optax.apply_updates(params, updates)
    return params


def trained_by_torch(made, clip=0.0) -> dict:
    """Does the same with PyTorch and timm."""
    torch = pytest.importorskip("torch")
    optim = pytest.importorskip("timm.optim")
    params = jax.tree.map(lambda x: torch.nn.Parameter(torch.tensor(x)), draw(0))
    kernels = [params["conv0"]["kernel"], params["classifier"]["kernel"]]
    others = [p for p in jax.tree.leaves(params) if all(p is not kernel for kernel in kernels)]
    decay = made.weight_decay
    groups = [
        {"params": kernels, "weight_decay": decay},
        {"params": others, "weight_decay": decay if made.weight_decay_on == "all" else 0.0},
    ]
    theirs = {
        "sgd": lambda: torch.optim.SGD(groups, RATE, momentum=0.9, nesterov=True),
        "adamw": lambda: torch.optim.AdamW(groups, RATE),
        "lamb": lambda: optim.Lamb(groups, RATE, max_grad_norm=clip or None),
        "lion": lambda: optim.Lion(groups, RATE),
        "rmsprop": lambda: optim.RMSpropTF(groups, RATE, momentum=0.9),
    }[made.optimizer]()
    for step in range(STEPS):
        for group in theirs.param_groups:
            group["lr"] = RATE * DROP**step
        gradients = draw(1 + step)
        for param, gradient in zip(
            jax.tree.leaves(params), jax.tree.leaves(gradients), strict=True
        ):
            param.grad = torch.tensor(gradient)
        if clip and made.optimizer != "lamb":
            torch.nn.utils.clip_grad_norm_(jax.tree.leaves(params), clip)
        theirs.step()
    return jax.tree.map(lambda p: p.detach().numpy(), params)


@pytest.mark.parametrize(("name", "decayed"), CASES)
def test_fifty_steps_equal_those_of_pytorch_and_timm(name, decayed, float64):
    made = config(optimizer=name, weight_decay=0.05, weight_decay_on=decayed)
    ours = trained(made)
    assert norm(ours) == pytest.approx(CASES[name, decayed], rel=1e-9)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
        *(ours, trained_by_torch(made)),
    )


@pytest.mark.parametrize("name", ["lamb", "adamw", "sgd"])
def test_clipping_equals_that_of_pytorch_and_timm(name, float64):
    """PyTorch adds 1e-6 to the norm, which timm's Lamb does not."""
    made = config(optimizer=name, weight_decay=0.05, clip_norm=1.0)
    tolerance = 1e-9 if name == "lamb" else 1e-5
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=1e-6),
        *(trained(made), trained_by_torch(made, clip=1.0)),
    )


def test_a_large_gradient_is_clipped_to_its_norm(float64):
    made = config(clip_norm=2.0, momentum=0.0, weight_decay=0.0)
    params = jax.tree.map(jnp.asarray, draw(0))
    chosen = optimizer(made, optax.constant_schedule(1.0), params)
    for factor, limit in ((1e3, 2.0), (1e-3, None)):
        gradients = jax.tree.map(lambda x, factor=factor: factor * x, draw(1))
        updates, _ = chosen.update(gradients, chosen.init(params), params)
        expected = limit or norm(gradients)
        assert norm(updates) == pytest.approx(expected, rel=1e-5)


def test_muon_makes_the_updates_of_convolutions_orthogonal(float64):
    """All singular values of an update are about equal, and its elements as large as AdamW's."""
    made = config(optimizer="muon", weight_decay=0.0)
    params = jax.tree.map(jnp.asarray, draw(0))
    chosen = optimizer(made, optax.constant_schedule(1.0), params)
    updates, _ = chosen.update(draw(1), chosen.init(params), params)
    matrix = np.asarray(updates["conv0"]["kernel"]).reshape(36, 5)
    values = np.linalg.svd(matrix, compute_uv=False) / (0.2 * math.sqrt(36))
    assert values.min() > 0.5 and values.max() < 1.4
    # In Adam's first step only the signs of the gradient matter.
    assert np.ptp(np.abs(updates["classifier"]["kernel"])) < 1e-3


def test_muon_decays_kernels_alone(float64):
    made = config(optimizer="muon", weight_decay=0.5, weight_decay_on="kernels")
    params = jax.tree.map(jnp.asarray, draw(0))
    chosen = optimizer(made, optax.constant_schedule(0.1), params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = chosen.update(zeros, chosen.init(params), params)
    for module, name, factor in (("conv0", "kernel", 0.05), ("classifier", "kernel", 0.05),
                                 ("norm0", "scale", 0)):  # fmt: skip
        np.testing.assert_allclose(
            updates[module][name], -factor * params[module][name], rtol=1e-5, atol=1e-7
        )


def test_each_block_of_a_stack_has_its_own_ratio_in_lamb(float64):
    """Blocks that are compiled as one have a leading axis."""
    made = config(optimizer="lamb", weight_decay=0.01)
    alone = [
        {"kernel": scale * draw(seed)["conv0"]["kernel"], "scale": scale * np.ones(5)}
        for seed, scale in ((1, 1e-3), (2, 1.0))
    ]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)

    def update(params):
        chosen = optimizer(made, optax.constant_schedule(0.1), params)
        gradients = jax.tree.map(np.ones_like, params)
        return chosen.update(gradients, chosen.init(params), params)[0]

    together = jax.tree.map(lambda *leaves: np.stack(leaves), *map(update, alone))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), update(stacked), together
    )


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_moments_begin_anew_at_the_end_of_freezing(name, float64):
    """Otherwise the first updates would be several times the learning rate."""
    params = jax.tree.map(jnp.asarray, draw(0))
    frozen = params | {"conv0": {"kernel": None, "bias": None}}
    made = config(optimizer=name, weight_decay=0.0)
    chosen = optimizer(made, lambda step: RATE / (1 + step), params)
    state, update = chosen.init(frozen), jax.jit(chosen.update)
    for step in range(STEPS):
        gradients = draw(step) | {"conv0": {"kernel": None, "bias": None}}
        _, state = update(gradients, state, frozen)
    state = unfrozen(state, chosen.init(params))
    assert jax.tree.structure(state) == jax.tree.structure(chosen.init(params))
    updates, _ = update(draw(1), state, params)
    first, _ = update(draw(1), chosen.init(params), params)
    # Only the schedule remembers the steps.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose((1 + STEPS) * a, b, rtol=1e-6), updates, first
    )


def test_the_average_equals_that_of_timm(float64):
    torch = pytest.importorskip("torch")
    utils = pytest.importorskip("timm.utils")
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    theirs, ours = utils.ModelEmaV3(model, decay=0.9), None
    with torch.no_grad():
        for step in range(STEPS):
            state = {
                k: v.numpy().copy() for k, v in model.state_dict().items() if v.is_floating_point()
            }
            ours = moved(ours, state, 0.1) if ours else state
            if step:
                theirs.update(model)
            for value in model.state_dict().values():
                if value.is_floating_point():
                    value.add_(torch.randn_like(value))
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs.module.state_dict()[name], rtol=1e-4, atol=1e-5)


def rates(made, examples, steps):
    return np.asarray(jax.vmap(learning_rate(made, examples))(jnp.asarray(steps)))


def test_warmup_and_cosine_are_those_of_timm(float64):
    """The cosine counts from the first step of training, not from the end of the warm-up."""
    changes = dict(learning_rate_schedule="cosine", learning_rate=1e-3, final_learning_rate=1e-6)
    made = config(**changes, epochs=30, warmup="linear", warmup_epochs=2.0,
                  warmup_learning_rate=1e-4, batch_size=100)  # fmt: skip
    steps = np.arange(30 * 10)
    cosine = 1e-6 + (1e-3 - 1e-6) / 2 * (1 + np.cos(np.pi * steps / 300))
    expected = np.where(steps < 20, 1e-4 + (1e-3 - 1e-4) * steps / 20, cosine)
    np.testing.assert_allclose(rates(made, 1000, steps), expected, rtol=1e-9)
    torch = pytest.importorskip("torch")
    scheduler = pytest.importorskip("timm.scheduler")
    theirs = scheduler.CosineLRScheduler(
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1e-3),
        t_initial=300,
        lr_min=1e-6,
        warmup_t=20,
        warmup_lr_init=1e-4,
        t_in_epochs=False,
    )
    np.testing.assert_allclose([theirs._get_lr(t)[0] for t in steps], expected, rtol=1e-9)


def test_one_cycle_is_that_of_pytorch(float64):
    """PyTorch reaches the highest rate one step earlier, and the end at the last step."""
    made = config(learning_rate_schedule="one_cycle", learning_rate=0.4, epochs=10, batch_size=100)
    ours = rates(made, 10_000, np.arange(1000))
    assert ours[0] == pytest.approx(0.4 / 25) and ours[300] == pytest.approx(0.4)
    assert ours.argmax() == 300 and ours[-1] < 1e-4
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1)], 0.1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total_steps=1001)
    expected = []
    for _ in range(1000):
        expected.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    np.testing.assert_allclose(ours, expected, atol=0.4 * np.pi / 2 / 300)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adamw", "betas": (0.9,)}, "betas is (0.9,): use two numbers"),
        ({"optimizer": "adamw", "betas": (0.9, 1)}, "betas is (0.9, 1): use two numbers"),
        ({"betas": (0.9, 0.99)}, "which sgd does not have: unset it, or use adamw"),
        ({"learning_rate_schedule": "one_cycle", "warmup_epochs": 1.0}, "begins with a warm-up"),
        ({"optimizer": "lion", "epsilon": 0.1}, "epsilon is 0.1, which lion does not have"),
        ({"optimizer": "adamw", "momentum": 0.5}, "use sgd or rmsprop"),
        ({"optimizer": "rmsprop", "nesterov": False}, "nesterov is False, which rmsprop does not"),
        ({"epochs": 3, "warmup_epochs": 3.0}, "warmup_epochs is 3 of 3 epochs"),
        ({"final_learning_rate": 0.01}, "but learning_rate_schedule is 'steps'"),
        (
            {"learning_rate_schedule": "cosine", "final_learning_rate": 1.0},
            "final_learning_rate is 1, above learning_rate 0.1",
        ),
        (
            {"freeze": "conv0", "freeze_epochs": 299, "swa_epochs": 2},
            "swa_epochs is 2 of 1 epoch without freezing",
        ),
        ({"swa_epochs": 2, "ema_decay": 0.9}, "swa_epochs is 2 and ema_decay 0.9: set one"),
        ({"swa_epochs": 301}, "swa_epochs is 301 of 300 epochs"),
        ({"accumulate": 3}, "batch_size 64 cannot be divided into 3 parts"),
        ({"accumulate": 4, "model.bn_group_size": 32}, "a batch of 16 images cannot be divided"),
    ],
)
def test_impossible_recipes_are_refused(changes, message):
    with pytest.raises(InputError) as caught:
        check_config(config(**changes))
    assert message in str(caught.value)
