"""The forms that accelerators compute, run on the CPU."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx
from jax import lax

import densenet_jax as dj
from densenet_jax.models import convolution, layers, pooling, remat, statistics

random = np.random.default_rng(0)
VALUES = random.normal(size=(8, 5, 4, 6)) * 3 + 2
MASK = np.array([1.0] * 6 + [0.0] * 2)


@pytest.mark.parametrize("expected_mean", [None, np.full(5, 1.5)])
@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("groups", [1, 4])
def test_statistics_of_one_pass(groups, mask, expected_mean, float64):
    """Groups of padding alone are normalised by their own statistics."""
    weights = None if mask is None else mask.reshape(groups, -1, 1)
    total = np.full((groups, 1), 8 / groups * 24)
    if mask is not None:
        weights = np.where(weights.sum(1, keepdims=True) > 0, weights, 1)
        total = weights.sum(1) * 24
    arguments = [
        x if x is None else jnp.asarray(x) for x in (VALUES, weights, total, expected_mean)
    ]
    one, two = statistics._one_pass(*arguments), statistics._two_passes(*arguments)
    for actual, expected in zip(one, two, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_one_pass_keeps_the_variance_beside_a_distant_mean():
    """Tests a mean of 100,000 deviations in float32, about the first value and about a near one."""
    noise = random.normal(size=(64, 1, 16, 16)) * 0.01
    values = jnp.asarray(1000 + noise, jnp.float32)
    expected = np.asarray(values, np.float64).var()
    total = jnp.full((1, 1), values.size, jnp.float32)
    for center in (None, jnp.asarray([1000.005], jnp.float32)):
        mean, var = statistics._one_pass(values, None, total, center)
        assert float(mean[0, 0]) == pytest.approx(1000, abs=1e-3)
        assert float(var[0, 0]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("groups", [None, 1, 4])
def test_the_derivative_of_normalize_relu(groups, float64):
    shape = (5,) if groups is None else (groups, 5)
    scale_shift = tuple(jnp.asarray(random.normal(size=shape)) for _ in range(2))
    values, gradient = jnp.asarray(VALUES), jnp.asarray(random.normal(size=VALUES.shape))
    expected = jax.vjp(layers._normalize_relu, values, scale_shift)[1](gradient)
    actual = layers._both_sums_at_once(values, scale_shift, gradient)
    assert (np.asarray(expected[0]) == 0).any()  # The ReLU rectified values.
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-10), actual, expected)


@pytest.mark.parametrize("size, padding", [(3, (1, 1)), (3, (0, 1)), (2, (0, 0))])
def test_the_derivative_of_max_pooling(size, padding, float64):
    """Of equal maxima, as after a ReLU, the first in a window gets the gradient."""
    x = jnp.asarray(np.maximum(random.normal(size=(3, 2, 8, 9)), 0))
    x = jnp.pad(x, ((0, 0), (0, 0), padding, padding), constant_values=-jnp.inf)
    maxima, backward = jax.vjp(lambda x: pooling._maxima(x, size), x)
    gradient = jnp.asarray(random.normal(size=maxima.shape))
    actual = pooling._gather_gradients(size, x, maxima, gradient)
    np.testing.assert_allclose(actual, backward(gradient)[0], rtol=1e-12)


def test_gradients_of_readers_are_added():
    maps = [
        layers.FeatureMap(jnp.ones((2, c, 3, 3)), layers.Statistics(*3 * (jnp.ones((1, c)),)))
        for c in (3, 2)
    ]

    def loss(maps):
        first, second, third = remat.copy_for_readers(maps, 3)
        values = (m.values.sum() * 2 for m in first)
        means = (m.statistics.mean.sum() * 5 for m in second)
        return sum(values) + sum(means) + third[0].values.sum()

    gradient = jax.grad(loss)(maps)
    assert float(gradient[0].values[0, 0, 0, 0]) == 3
    assert float(gradient[1].values[0, 0, 0, 0]) == 2
    assert float(gradient[1].statistics.mean[0, 1]) == 5


@pytest.fixture(scope="module")
def accelerator(on_cpu):
    """Computes networks as a GPU does."""
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            lax,
            "platform_dependent",
            lambda *arguments, default, **forms: forms.get("cuda", default)(*arguments),
        )
        yield
    jax.clear_caches()


def _loss_and_gradients(form: str):
    model = dj.create_model(
        "densenet_bc_k4_d10", remat=form, block_config=(5, 2), dtype=jnp.float64,
        param_dtype=jnp.float64, rngs=nnx.Rngs(0),
    )  # fmt: skip
    images = jnp.asarray(np.random.default_rng(1).normal(size=(6, 8, 8, 3)))

    def loss(params, batch_stats):
        network = nnx.merge(graphdef, params, batch_stats)
        logits = network(images, train=True, mask=jnp.asarray([1.0] * 5 + [0.0]))
        found = nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))
        return jnp.square(logits[:5]).sum(), found

    graphdef, *states = nnx.split(model, nnx.Param, ...)
    params, batch_stats = map(nnx.to_pure_dict, states)
    params = jax.tree.map(lambda x: x + 0.01, params)  # Zero biases would hide mistakes.
    (value, found), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, batch_stats)
    return value, found, gradients


@pytest.fixture(scope="module")
def on_cpu():
    with jax.enable_x64(True):
        return _loss_and_gradients("concat")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["none", "concat", "layer"])
def test_the_network_is_the_same_as_on_cpu(form, on_cpu, accelerator, float64):
    actual = _loss_and_gradients(form)
    close = lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-12)  # noqa: E731
    jax.tree.map(close, actual, on_cpu)


def test_aligned_convolutions_are_the_same():
    """Channels are padded in 16 bits and not in 32 bits."""
    kernel = random.normal(size=(3, 3, 5, 12))
    for dtype, wide in ((jnp.bfloat16, 16), (jnp.float32, 12)):
        x, k = jnp.asarray(VALUES, dtype), jnp.asarray(kernel, dtype)
        np.testing.assert_array_equal(convolution._aligned(x, k), convolution._direct(x, k))
        text = str(jax.make_jaxpr(convolution._aligned)(x, k))
        assert f"[8,{wide},4,6] = conv_general_dilated" in text


# Prints the collective operations and bytes of a step on 8 devices, for each platform's form.
COLLECTIVES = """
import json, re, jax, small
from jax import lax
from densenet_jax.analysis.plan import collective_bytes
from densenet_jax.train.trainer import Trainer

def collectives(platform):
    jax.clear_caches()
    lax.platform_dependent = lambda *a, default, **forms: forms.get(platform, default)(*a)
    config = small.config({"model.dropout_rate": 0.0, "model.block_config": (4, 2)})
    program = Trainer(config, devices=jax.devices()).compiled("train").as_text()
    operations = re.findall(r" (?:all-reduce|all-gather|all-to-all|collective-permute)[(]", program)
    return len(operations), sum(collective_bytes(program).values())

print(json.dumps({platform: collectives(platform) for platform in ("cpu", "cuda", "tpu")}))
"""


@pytest.mark.slow
def test_collectives():
    """Two passes exchange the mean before the variance; one pass exchanges both at once."""
    process = small.start("-c", COLLECTIVES, XLA_FLAGS="--xla_force_host_platform_device_count=8")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    operations, exchanged = zip(*json.loads(out.splitlines()[-1]).values(), strict=True)
    # Each layer has two maps; the stem and the transition have one.
    assert operations[0] - operations[2] >= 2 * 6 + 2
    # No feature map is exchanged: one of 8 images with 4 channels of 8 x 8 has 8 kB.
    assert max(exchanged) < 4 * exchanged[0]
