"""Comparison with golden numbers of an independent PyTorch implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from cases import slow_except
from flax import nnx

from densenet_jax.data.batches import Batch
from densenet_jax.train.optimizer import sgd, step_schedule
from densenet_jax.train.step import StepContext, TrainState, train_step

REMATS = ("none", "concat", "layer")
CASES = [(name, remat) for name in reference.NETWORKS for remat in REMATS]


def relative_error(actual, expected) -> float:
    return float(np.max(np.abs(np.asarray(actual) - expected)) / np.max(np.abs(expected)))


def errors(name: str, dtype, **settings) -> dict[str, float]:
    """Returns the relative error of each golden number of one network."""
    golden = np.load(reference.GOLDEN / f"{name}.npz")
    _, size, image_size = reference.NETWORKS[name]
    model = reference.network(name, dtype, **settings)
    classes = golden["eval_logits"].shape[1]
    images, labels = reference.batch(f"batch:{name}", size, image_size, classes, dtype)
    eval_logits, logits, loss, grads, stats = reference.forward_and_backward(model, images, labels)
    assert sum(grad.size for grad in grads.values()) == golden["params"]
    actual = {"eval_logits": eval_logits, "train_logits": logits, "train_loss": loss}
    actual |= {f"grad_norm/{key}": np.linalg.norm(grad) for key, grad in grads.items()}
    actual |= {f"after/{key}": np.linalg.norm(stat) for key, stat in stats.items()}
    assert actual.keys() == set(golden.files) - {"params"}
    return {key: relative_error(value, golden[key]) for key, value in actual.items()}


@pytest.mark.parametrize(("name", "remat"), slow_except([("densenet_bc_k12_d22", "concat")], CASES))
def test_float64(name, remat):
    with jax.enable_x64(True):
        found = errors(name, jnp.float64, remat=remat)
    assert max(found.values()) < 1e-9, max(found, key=found.get)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "remat"), CASES)
def test_float32(name, remat):
    check_float32(name, remat=remat)


@pytest.mark.parametrize("name", slow_except(["densenet_bc_k12_d22"], reference.NETWORKS))
def test_kernels_in_float32(name):
    check_float32(name, block="kernels")


def check_float32(name, **settings):
    with jax.default_matmul_precision("highest"):  # GPUs and TPUs would use fewer bits.
        found = errors(name, jnp.float32, **settings)
    grads = [found.pop(key) for key in list(found) if key.startswith("grad_norm/")]
    assert max(found.values()) < 1e-5, max(found, key=found.get)
    if name not in ("densenet_bc_k12_d100", "densenet121"):
        assert max(grads) < 1e-3
    # In these deepest networks rounding moves a few values across the corner of a ReLU, which
    # changes the gradients of a channel. PyTorch's float32 differs as much from its float64: by up
    # to 2.7e-3 for densenet_bc_k12_d100, and by more than 1e-3 for 31 of 364 gradients of
    # densenet121.
    assert np.quantile(grads, 0.9 if name == "densenet121" else 0.95) < 1e-3
    assert max(grads) < 5e-3


@pytest.mark.slow
def test_twelve_steps_of_sgd():
    golden = np.load(reference.GOLDEN / "trajectory_densenet_bc_k12_d22.npz")
    seed = "trajectory:densenet_bc_k12_d22"
    with jax.enable_x64(True):
        model = reference.network("densenet_bc_k12_d22", jnp.float64)
        graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
        params, stats = map(nnx.to_pure_dict, states)
        optimizer = sgd(step_schedule(0.1, (6,)), momentum=0.9, weight_decay=1e-4)
        learner = StepContext(
            graphdef=graphdef, other={}, optimizer=optimizer, seed=0, mean=(), std=(),
            dtype=jnp.float64, augmentation=None, label_smoothing=0.0,
            loss="cross_entropy", companion_weight=lambda step: 0,
        )  # fmt: skip
        state = TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params))
        step = jax.jit(lambda state, batch: train_step(state, batch, learner))
        losses = []
        for i in range(12):
            images, labels = reference.batch(f"{seed}:{i % 4}", 16, 32, 10)
            state, sums = step(state, Batch(images, labels, jnp.ones(16)))
            losses.append(float(sums.loss / sums.examples))
        images, _ = reference.batch(f"{seed}:eval", 16, 32, 10)
        logits = jax.jit(lambda state: learner.model(state)(images))(state)
    np.testing.assert_allclose(losses, golden["losses"], rtol=1e-6)
    assert relative_error(logits, golden["eval_logits_after"]) < 1e-6


def test_remat_changes_neither_gradients_nor_statistics_under_dropout():
    with jax.enable_x64(True):
        images, labels = reference.batch("remat", 4, 8, 10)
        results = {}
        for remat in REMATS:
            model = reference.dj.create_model(
                "densenet_bc_k12_d100", block_config=(2,), growth_rate=4, rngs=nnx.Rngs(0),
                remat=remat, dropout_rate=0.2, dtype=jnp.float64, param_dtype=jnp.float64,
            )  # fmt: skip
            results[remat] = gradients_and_statistics(model, images, labels)
    for remat in ("concat", "layer"):
        for key, expected in results["none"].items():
            actual = results[remat][key]
            np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12, err_msg=key)


def gradients_and_statistics(model, images, labels) -> dict[str, np.ndarray]:
    graphdef, params, stats, other = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    stats, other = nnx.to_pure_dict(stats), nnx.to_pure_dict(other)

    def loss(params):
        merged = nnx.merge(graphdef, params, stats, other)
        logits = merged(images, train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat))

    grads, stats = jax.jit(jax.grad(loss, has_aux=True))(nnx.to_pure_dict(params))
    return reference.dj.weights.to_torch(nnx.merge(graphdef, grads, stats, other))
