"""Tests `python -m launch.benchmark accuracy`: the peer takes the same steps."""

import json

import numpy as np
import pytest
import small

from densenet_jax.errors import InputError
from densenet_jax.train.fit import fit
from densenet_jax.train.record import RunDirectory
from launch.benchmark import __main__ as benchmark
from launch.benchmark import accuracy

# Nothing is random, and the last batch is short.
CHANGES = small.PLAIN | {"epochs": 2, "data.holdout": 0, "learning_rate": 0.01}


@pytest.fixture
def prepared(tmp_path):
    accuracy._prepare_peer(small.config(CHANGES), tmp_path)
    return tmp_path


def test_peer_receives_the_whole_recipe(prepared):
    data = np.load(prepared / "data.npz")
    assert data["orders"].shape == (2, 23, 64) and data["rates"].shape == (46,)
    # With two epochs, the rate drops in the first epoch and again in the second.
    np.testing.assert_allclose(data["rates"], np.repeat([1e-3, 1e-4], 23))
    recipe = json.loads((prepared / "recipe.json").read_text())
    assert recipe["weight_decay"] == 1e-4 and recipe["padding"] == 0 and recipe["nesterov"]


@pytest.mark.slow
def test_peer_takes_the_same_steps(prepared, tmp_path):
    pytest.importorskip("torch")
    ours = tmp_path / "ours"
    fit(small.config(CHANGES), ours)
    process = small.start(
        "-m", "launch.benchmark.torch_train", prepared, "--workdir", tmp_path / "t"
    )
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    for line, other in zip(
        RunDirectory(tmp_path / "t").metrics(), RunDirectory(ours).metrics(), strict=True
    ):
        assert line["test_error"] == pytest.approx(other["test_error"], abs=1.0)


@pytest.mark.slow
def test_benchmark(capsys):
    pytest.importorskip("torch")
    flags = [*small.flags(CHANGES), "--test_error=99", "--rounds=1", "--json"]
    benchmark.main(["accuracy", "--config", str(small.QUICKSTART), *flags])
    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found.keys() == {"ours", "torch"}
    assert all(rounds[0]["seconds"] > 0 for rounds in found.values())
    assert "times as long as ours" in table[-1]


@pytest.mark.parametrize(
    "changes",
    [
        {"model.dropout_rate": 0.2},
        {"label_smoothing": 0.1},
        {
            **{"model.name": "preresnet11", "model.growth_rate": None},
            **{"model.block_config": None, "model.bottleneck": None},
        },
    ],
)
def test_config_that_the_peer_lacks_is_an_error(changes, tmp_path):
    with pytest.raises(InputError, match="peer trains only DenseNets"):
        accuracy._prepare_peer(small.config(CHANGES | changes), tmp_path)
