"""The recipes of RDNet and of timm's DenseNet-121 have the settings of their authors."""

import jax
import numpy as np
import optax
import pytest
import small_imagenet
from flax import nnx
from jax.tree_util import tree_leaves_with_path

from densenet_jax import weights
from densenet_jax.models.catalog import FAMILIES, model_config
from densenet_jax.train.freezing import path_of
from densenet_jax.train.optimizer import is_kernel, learning_rate, optimizer
from densenet_jax.train.trainer import Trainer
from experiments.rdnet import tiny
from experiments.timm import densenet121_ra

EXAMPLES = 1_281_167
STEPS = EXAMPLES // 512
# Small enough for 224 pixels on a CPU. RandAugment takes long to compile.
NARROW = {"model.stem_features": 8, "model.stage_growth_rates": (8,), "model.downsampling": ()}
NARROW |= {"data.random_augment": 0.0}


def rates(config, epochs):
    """Returns the rates at the first steps of epochs, counted from 0."""
    steps = -(-EXAMPLES // config.batch_size) if not config.data.drop_last else STEPS
    return jax.vmap(learning_rate(config, EXAMPLES))(steps * np.asarray(epochs))


def test_rates_of_rdnet_are_those_of_timm():
    """timm's scheduler changes the rate once an epoch, with these rates."""
    epochs = np.arange(300)
    cosine = 1e-6 + (1e-3 - 1e-6) / 2 * (1 + np.cos(np.pi * epochs / 300))
    expected = np.where(epochs < 20, 1e-4 + (1e-3 - 1e-4) * epochs / 20, cosine)
    np.testing.assert_allclose(rates(tiny.get_config(), epochs), expected, rtol=1e-4)
    torch = pytest.importorskip("torch")
    scheduler = pytest.importorskip("timm.scheduler")
    theirs = scheduler.create_scheduler_v2(
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1e-3),
        **dict(sched="cosine", num_epochs=300, warmup_epochs=20, warmup_lr=1e-4, min_lr=1e-6),
    )[0]
    np.testing.assert_allclose([theirs._get_lr(epoch)[0] for epoch in epochs], expected, rtol=1e-9)


def test_rates_of_densenet121_are_those_of_timm():
    epochs = np.arange(450)
    expected = 0.016 * 0.97 ** np.floor(epochs / 2.4 + 1e-9)
    expected[:3] = 1e-6 + (0.016 - 1e-6) * epochs[:3] / 3
    ours = rates(densenet121_ra.get_config(), epochs)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-8)
    torch = pytest.importorskip("torch")
    scheduler = pytest.importorskip("timm.scheduler")
    theirs = scheduler.create_scheduler_v2(
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.016),
        **dict(sched="step", num_epochs=450, decay_epochs=2.4, decay_rate=0.97),
        **dict(warmup_epochs=3, warmup_lr=1e-6),
    )[0]
    found = [theirs._get_lr(epoch)[0] for epoch in epochs]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["rdnet_tiny", "densenet121"])
def test_decay_is_for_the_parameters_that_timm_chooses(name):
    """timm decays parameters of two and more axes."""
    config = model_config(name)
    model = nnx.eval_shape(lambda: FAMILIES[type(config)](config, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    decays = dict(zip(
        [path_of(path) for path, _ in tree_leaves_with_path(params)],
        jax.tree.leaves(is_kernel(params)), strict=True,
    ))  # fmt: skip
    shapes = {path_of(path): leaf.ndim for path, leaf in tree_leaves_with_path(params)}
    assert decays == {path: ndim > 1 for path, ndim in shapes.items()}
    assert 50 < sum(decays.values()) < len(decays)


@pytest.mark.slow
def test_groups_are_those_of_timm():
    """Compares the names of the parameters with and without decay."""
    timm = pytest.importorskip("timm")
    optim = pytest.importorskip("timm.optim")
    theirs = timm.create_model("rdnet_tiny")
    names = {id(param): name for name, param in theirs.named_parameters()}
    groups = optim.param_groups_weight_decay(theirs, 0.05)
    expected = {
        names[id(p)]: group["weight_decay"] > 0 for group in groups for p in group["params"]
    }
    config = model_config("rdnet_tiny")
    model = FAMILIES[type(config)](config, rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    flags = is_kernel(nnx.to_pure_dict(params))
    marked = jax.tree.map(lambda p, f: np.full(p.shape, float(f)), nnx.to_pure_dict(params), flags)
    nnx.replace_by_pure_dict(params, marked)
    nnx.update(model, params)
    ours = {name: bool(array.any()) for name, array in weights.to_torch(model).items()}
    assert ours == expected


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    directory = tmp_path_factory.mktemp("imagenet")
    train, validation = small_imagenet.train_pictures(), small_imagenet.validation_pictures()
    small_imagenet.write_archives(directory, train, validation)
    return directory


def two_steps(config, directory):
    """Returns the parameters before and after two steps, and the totals of the second."""
    config.data.directory = str(directory)
    config.data.workers = 0
    config.batch_size = 8
    trainer = Trainer(config)
    before = jax.device_get(trainer.initial_state.params)
    state = trainer.initial_state
    for dispatch, _ in zip(trainer.epoch(0), range(2), strict=False):
        state, totals = trainer.train(state, trainer.totals(), dispatch, 0)
    trainer.close()
    return before, jax.device_get(state), jax.device_get(totals)


@pytest.mark.parametrize(
    "changes", [NARROW, pytest.param({}, marks=pytest.mark.slow)], ids=["narrow", "whole"]
)
def test_two_steps_of_the_recipe_on_a_small_imagenet(changes, imagenet):
    config = tiny.get_config()
    config.update_from_flattened_dict(changes)
    before, state, totals = two_steps(config, imagenet)
    assert int(state.step) == 2 and totals.examples == 8 and np.isfinite(totals.loss)
    # Each of the first steps of AdamW moves an element by about the rate of the warm-up, 1e-4.
    moves = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, state.params)
    assert all(1e-5 < move < 3e-4 for move in jax.tree.leaves(moves))


def test_the_optimiser_of_rdnet_decays_kernels_alone(float64):
    config = tiny.get_config()
    params = {"conv": {"kernel": np.ones((1, 1, 2, 2)), "bias": np.ones(2)}}
    chosen = optimizer(config, optax.constant_schedule(1e-3), params)
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = chosen.update(zeros, chosen.init(params), params)
    np.testing.assert_allclose(updates["conv"]["kernel"], -1e-3 * 0.05)
    np.testing.assert_array_equal(updates["conv"]["bias"], 0)
