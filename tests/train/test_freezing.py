"""Frozen parameters and running statistics, and learning rates that decay from block to block."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from flax import nnx
from jax.tree_util import tree_leaves_with_path

import densenet_jax as dj
from densenet_jax.data.batches import Batch
from densenet_jax.errors import InputError, Preempted
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.config import base_config, check_config
from densenet_jax.train.fit import fit
from densenet_jax.train.freezing import freeze, path_of
from densenet_jax.train.optimizer import optimizer
from densenet_jax.train.record import RunDirectory
from densenet_jax.train.step import train_step
from densenet_jax.train.trainer import UNFROZEN, Trainer

RUN = small.PLAIN | {
    "model.block_config": (1, 1),
    "epochs": 1,
    "checkpoint_every_epochs": 1,
    "data.examples": 200,
}
FIRST_BLOCK = "^(conv0|blocks/0|transitions/0)/"
STEPS = 4  # In an epoch.


def by_path(*trees) -> dict[str, np.ndarray]:
    return {
        path_of(path): np.asarray(leaf)
        for tree in trees
        for path, leaf in tree_leaves_with_path(tree)
    }


def changed(run, trainer: Trainer) -> set[str]:
    """Returns the paths of the parameters and statistics that a finished run has changed."""
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        state, _ = checkpoints.restore(trainer.state_like)
    before, after = (by_path(s.params, s.batch_stats) for s in (trainer.initial_state, state))
    return {path for path in before if not np.array_equal(before[path], after[path])}


@pytest.mark.parametrize("pattern", [FIRST_BLOCK, "all-but-head"])
def test_an_epoch_changes_only_what_is_not_frozen(tmp_path, pattern):
    config = small.config(RUN | {"freeze": pattern})
    fit(config, tmp_path)
    trainer = Trainer(config)
    frozen = ("conv0", "blocks/0", "transitions/0")
    every = by_path(trainer.initial_state.params, trainer.initial_state.batch_stats)
    expected = {path for path in every if not path.startswith(frozen)}
    if pattern == "all-but-head":
        expected = {"classifier/kernel", "classifier/bias"}
    assert changed(tmp_path, trainer) == expected
    # The optimiser has momentum of the trained parameters, and no array for the others.
    sizes = [leaf.size for leaf in jax.tree.leaves(trainer.initial_state.opt_state) if leaf.ndim]
    assert sum(sizes) == sum(every[path].size for path in expected if "/mean" not in path
                             and "/var" not in path)  # fmt: skip


def test_nothing_below_the_lowest_trained_layer_is_differentiated():
    """A linear probe costs about a forward pass, training from the second block less than all."""
    flops = {
        freeze: Trainer(small.config(RUN | {"freeze": freeze}))
        .compiled("train")
        .cost_analysis()["flops"]
        for freeze in (None, FIRST_BLOCK, "all-but-head")
    }
    assert flops["all-but-head"] < 0.45 * flops[None]
    assert flops["all-but-head"] < flops[FIRST_BLOCK] < 0.8 * flops[None]


def test_a_run_that_unfreezes_resumes_bit_for_bit(tmp_path, monkeypatch):
    """The run is stopped while the first block is frozen, and at the first step afterwards."""
    changes = RUN | {"freeze": FIRST_BLOCK, "freeze_epochs": 1, "epochs": 2}
    config = small.config(changes)
    result = fit(config, tmp_path / "alone")
    train, done = Trainer.train, 0

    def train_and_stop(trainer, *arguments):
        nonlocal done
        done += 1
        if done in (2, STEPS + 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return train(trainer, *arguments)

    monkeypatch.setattr(Trainer, "train", train_and_stop)
    for _ in range(2):
        with pytest.raises(Preempted):
            fit(config, tmp_path / "stopped")
    assert fit(config, tmp_path / "stopped")["test_loss"] == result["test_loss"]
    expected, actual = (RunDirectory(tmp_path / name).metrics() for name in ("alone", "stopped"))
    assert actual == expected
    trainer = Trainer(config)
    every = by_path(trainer.initial_state.params, trainer.initial_state.batch_stats)
    assert changed(tmp_path / "stopped", trainer) == every.keys()
    assert [split for split, _ in trainer.programs()][:2] == ["train", UNFROZEN]


def test_a_step_equals_that_of_pytorch(float64):
    torch = pytest.importorskip("torch")
    from launch.benchmark.torch_densenet import TorchDenseNet

    config = small.config(
        RUN | {"freeze": "^(conv0|blocks/0|blocks/1/0/norm2)/", "dtype": "float64",
               "learning_rate_drops": (), "weight_decay": 0.01, "model.bottleneck": 4}
    )  # fmt: skip
    trainer = Trainer(config)
    context, state = trainer._context, trainer.initial_state
    random = np.random.default_rng(0)
    stats = jax.tree.map(  # Running statistics that differ from those of the batch.
        lambda x: jnp.asarray(0.5 + random.random(x.shape)), state.batch_stats
    )
    state = jax.tree.map(jnp.copy, state)
    state = type(state)(state.step, state.params, stats, state.opt_state)
    images, labels = random.standard_normal((8, 8, 8, 1)), random.integers(0, 10, 8)
    network = TorchDenseNet(trainer.model_config).double()
    given = {k: torch.tensor(v) for k, v in dj.weights.to_torch(context.model(state)).items()}
    network.load_state_dict(given, strict=False)
    network.train()
    names = {"features.conv0", "features.denseblock1.denselayer1", "features.denseblock2."
             "denselayer1.norm2"}  # fmt: skip
    for name, module in network.named_modules():
        if name.startswith(tuple(names)):
            module.eval()
            module.requires_grad_(False)
    optimizer = torch.optim.SGD(
        [p for p in network.parameters() if p.requires_grad],
        lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01,
    )  # fmt: skip
    loss = torch.nn.functional.cross_entropy(
        network(torch.tensor(images.transpose(0, 3, 1, 2))), torch.tensor(labels)
    )
    loss.backward()
    optimizer.step()
    batch = Batch(jnp.asarray(images), jnp.asarray(labels), jnp.ones(8))
    new, totals = train_step(state, batch, context)
    assert float(totals.loss) / 8 == pytest.approx(loss.item(), rel=1e-12)
    ours = dj.weights.to_torch(context.model(new))
    theirs = {k: v.numpy() for k, v in network.state_dict().items() if k in ours}
    assert len(theirs) >= len(ours) - 1
    for name, array in theirs.items():
        np.testing.assert_allclose(ours[name], array, rtol=1e-9, atol=1e-12, err_msg=name)


def test_the_rate_decays_from_block_to_block():
    config = base_config()
    config.update_from_flattened_dict(
        {"model.name": "densenet_bc_k4_d16", "data.name": "digits", "layer_decay": 0.5,
         "momentum": 0.0, "weight_decay": 0.0}
    )  # fmt: skip
    model = dj.create_model("densenet_bc_k4_d16", rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    made = optimizer(config, optax.constant_schedule(1.0), params)
    updates, _ = made.update(jax.tree.map(jnp.ones_like, params), made.init(params), params)
    factors = {path: -update.flat[0] for path, update in by_path(updates).items()}
    assert factors["conv0/kernel"] == 0.5**4
    assert factors["blocks/0/0/norm1/scale"] == factors["transitions/0/conv/kernel"] == 0.5**3
    assert factors["blocks/2/0/conv2/kernel"] == 0.5
    assert factors["norm5/bias"] == factors["classifier/kernel"] == 1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"freeze": "["}, "freeze is '[', which is no regular expression"),
        ({"freeze_epochs": 1}, "freeze_epochs is 1, but freeze is unset"),
        ({"freeze": "conv0", "freeze_epochs": 300}, "freeze_epochs is 300 of 300 epochs"),
    ],
)
def test_impossible_settings_are_refused(changes, problem):
    config = base_config()
    config.update_from_flattened_dict(
        {"model.name": "densenet_bc_k4_d10", "data.name": "digits"} | changes
    )
    with pytest.raises(InputError) as error:
        check_config(config)
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("network", "pattern", "problem"),
    [
        ("densenet_bc_k4_d10", "block/0", "matches no parameter: use a part of a path such as "
         "blocks/0/0/conv1/kernel"),
        ("densenet_bc_k4_d10", "", "matches every parameter"),
        ("nin", "all-but-head", "has no linear classifier"),
    ],
)  # fmt: skip
def test_patterns_that_freeze_nothing_or_everything_are_refused(network, pattern, problem):
    model = dj.create_model(network, rngs=nnx.Rngs(0))
    with pytest.raises(InputError) as error:
        freeze(model, pattern)
    assert problem in str(error.value)


def test_running_statistics_can_be_frozen_alone():
    model = dj.create_model("densenet_bc_k4_d10", rngs=nnx.Rngs(0))
    assert freeze(model, "/(mean|var)$") == frozenset()
    assert model.norm5.frozen and model.blocks[0][0].norm2.frozen
    assert freeze(model, "^(conv0/|norm5/var$)") == {"conv0/kernel"}
    assert model.norm5.frozen and not model.blocks[0][0].norm2.frozen


def test_networks_without_blocks_have_no_layer_decay():
    config = base_config()
    config.model.name, config.layer_decay = "nin", 0.5
    params = nnx.to_pure_dict(nnx.state(dj.create_model("nin", rngs=nnx.Rngs(0)), nnx.Param))
    with pytest.raises(InputError, match="but nin has no blocks"):
        optimizer(config, optax.constant_schedule(1.0), params)
