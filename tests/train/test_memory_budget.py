"""`memory_gb` chooses what the backward pass recomputes."""

import pytest
import small

from densenet_jax.errors import InputError
from densenet_jax.train.config import check_config
from densenet_jax.train.fit import fit
from densenet_jax.train.memory_budget import fitting

BYTES = {"none": 12e9, "concat": 8e9, "layer": 6e9}


@pytest.mark.parametrize(
    ("budget", "remat"), [(12, "none"), (11.9, "concat"), (8, "concat"), (7, "layer")]
)
def test_the_cheapest_choice_that_fits_is_taken(budget, remat):
    made = small.config({"memory_gb": float(budget)})
    assert fitting(made, lambda tried: BYTES[tried.model.remat]).model.remat == remat
    assert made.model.remat is None


def test_a_budget_that_is_too_small_is_refused():
    made = small.config({"memory_gb": 5.0})
    with pytest.raises(InputError, match="12 GB with none, 8 GB with concat, 6 GB with layer"):
        fitting(made, lambda tried: BYTES[tried.model.remat])


def test_a_run_keeps_to_its_budget(tmp_path, capsys):
    """Without a choice the network recomputes concatenations."""
    changes = small.PLAIN | {"data.examples": 64, "data.holdout": 0, "epochs": 1}
    fit(small.config(changes | {"memory_gb": 1.0, "learning_rate_drops": ()}), tmp_path)
    assert "remat none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.remat": "layer"}, "but model.remat is 'layer': unset one of them"),
        ({"model.name": "nin"}, "but nin has no model.remat to choose"),
    ],
)
def test_budgets_without_a_choice_are_refused(changes, message):
    made = small.config({"memory_gb": 4.0})
    if "model.name" in changes:
        for key in ("growth_rate", "block_config", "dropout_rate"):
            made.model[key] = None
    made.update_from_flattened_dict(changes)
    with pytest.raises(InputError) as caught:
        check_config(made)
    assert message in str(caught.value)
