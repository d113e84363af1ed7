"""Cycles of the cosine schedule, and the steps of their snapshots."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from densenet_jax.errors import InputError
from densenet_jax.train.config import check_config, snapshot_steps
from densenet_jax.train.optimizer import learning_rate

EXAMPLES = 1400  # 22 steps in an epoch.
COSINE = {"learning_rate_schedule": "cosine", "learning_rate": 0.2}


def rates(changes):
    """Returns the rate of each step of a run."""
    config = small.config(COSINE | changes)
    steps = jnp.arange(config.epochs * small.STEPS_PER_EPOCH)
    return np.asarray(jax.vmap(learning_rate(config, EXAMPLES))(steps))


@pytest.mark.parametrize("cycles", [1, 2, 6])
def test_the_rate_follows_the_formula_of_the_paper(cycles):
    """Equations 1 and 2 of arXiv 1704.00109, whose iterations t are counted from 1."""
    found = rates({"epochs": 12, "learning_rate_cycles": cycles})
    total = 12 * small.STEPS_PER_EPOCH
    cycle = math.ceil(total / cycles)
    expected = [
        0.2 / 2 * (math.cos(math.pi * ((t - 1) % cycle) / cycle) + 1) for t in range(1, total + 1)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert np.sum(found == found[0]) == cycles


def test_the_rate_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    cycle = 3 * small.STEPS_PER_EPOCH
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(theirs, T_0=cycle)
    expected = []
    for _ in range(4 * cycle):
        expected.append(theirs.param_groups[0]["lr"])
        theirs.step()
        schedule.step()
    found = rates({"epochs": 12, "learning_rate_cycles": 4})
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_snapshots_are_the_ends_of_cycles():
    config = small.config(COSINE | {"epochs": 12, "learning_rate_cycles": 4})
    assert snapshot_steps(config, EXAMPLES) == (66, 132, 198, 264)
    found = np.asarray(rates({"epochs": 12, "learning_rate_cycles": 4}))
    assert all(found[step - 1] < 0.001 for step in (66, 132, 198, 264))
    assert all(found[step] == np.float32(0.2) for step in (66, 132, 198))
    assert snapshot_steps(small.config(COSINE), EXAMPLES) == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"learning_rate_schedule": "steps"},
            "learning_rate_cycles is 4, but learning_rate_schedule is 'steps': set "
            "learning_rate_schedule to 'cosine', or learning_rate_cycles to 1",
        ),
        ({"warmup_epochs": 1.0}, "learning_rate_cycles is 4, but warmup_epochs is 1.0: set "),
        ({"swa_epochs": 1}, "learning_rate_cycles is 4, but swa_epochs is 1: set swa_epochs to 0"),
        ({"early_stopping_epochs": 3}, "4, but early_stopping_epochs is 3: set early_stopping"),
        ({"epochs": 3}, "learning_rate_cycles is 4, which does not divide 3 epochs: use a divisor"),
        ({"epochs": 10}, "learning_rate_cycles is 4, which does not divide 10 epochs: use a"),
    ],
)
def test_impossible_cycles_are_refused(changes, message):
    config = small.config(COSINE | {"epochs": 8, "learning_rate_cycles": 4})
    check_config(config)
    config.update_from_flattened_dict(changes)
    with pytest.raises(InputError) as caught:
        check_config(config)
    assert message in str(caught.value) and "\n" not in str(caught.value)
