"""Comparison of residual networks with literal implementations, block by block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from reference import forward_and_backward, tensor

import densenet_jax as dj
from densenet_jax.models.catalog import model_config
from densenet_jax.models.layers import Mode
from densenet_jax.models.resnet import Block, Shortcut
from densenet_jax.models.stack import Stack

SMALL = dict(block_config=(3, 2), num_classes=5, dtype=jnp.float64, param_dtype=jnp.float64)


def create(name, **overrides):
    return dj.create_model(name, rngs=nnx.Rngs(0), **overrides)


def block_of(name, sizes, **overrides):
    """Builds a block of the network called `name`."""
    config = model_config(name, dtype=jnp.float64, param_dtype=jnp.float64, **overrides)
    return Block(*sizes, config, rngs=nnx.Rngs(0))


def maps(features=4):
    return jax.random.normal(jax.random.key(0), (2, features, 8, 8), jnp.float64)


def written_down(weights, x, train):
    """Computes torchvision's ResNet from named weights; images NHWC."""

    def conv(name, x, stride=1):
        kernel = weights[f"{name}.weight"]
        pad = kernel.shape[-1] // 2
        return lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2)

    def norm(name, x):
        scale, bias, mean, var = (
            weights[f"{name}.{leaf}"][:, None, None]
            for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        if train:
            mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
        return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias

    def block(name, x, stride):
        convs = [i for i in (1, 2, 3) if f"{name}.conv{i}.weight" in weights]
        y = x
        for i in convs:
            # In a bottleneck the 3x3 convolution has the stride.
            here = stride if i == (2 if len(convs) == 3 else 1) else 1
            y = norm(f"{name}.bn{i}", conv(f"{name}.conv{i}", y, here))
            y = y if i == convs[-1] else jax.nn.relu(y)
        if f"{name}.downsample.0.weight" in weights:
            x = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride))
        return jax.nn.relu(x + y)

    x = jax.nn.relu(norm("bn1", conv("conv1", x.transpose(0, 3, 1, 2), 2)))
    edges = ((0, 0), (0, 0), (1, 1), (1, 1))
    x = lax.reduce_window(x, -np.inf, lax.max, (1, 1, 3, 3), (1, 1, 2, 2), edges)
    blocks = {name.rsplit(".", 2)[0] for name in weights if name.endswith("conv1.weight")}
    for name in sorted(blocks - {"conv1.weight"} - {"conv1"}):
        if name.startswith("layer"):
            x = block(name, x, 2 if name.endswith(".0") and not name.startswith("layer1") else 1)
    return x.mean((2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "widths"),
    [("resnet34", (64, 96)), ("resnet50", (32, 48))],
)
def test_imagenet_resnets_are_torchvisions(float64, name, widths):
    model = create(name, widths=widths, **SMALL)
    weights = {key: tensor(key, a.shape) for key, a in dj.weights.to_torch(model).items()}
    dj.weights.load_torch(model, weights)
    for key, array in dj.weights.to_torch(model).items():
        np.testing.assert_array_equal(array, weights[key])
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3), jnp.float64)
    labels = jnp.array([0, 1, 2, 3])
    eval_logits, logits, value, gradients, _ = forward_and_backward(model, images, labels)
    np.testing.assert_allclose(eval_logits, written_down(weights, images, False), rtol=1e-9)

    @jax.jit
    def loss(weights):
        logits = written_down(weights, images, True)
        return -jax.nn.log_softmax(logits)[jnp.arange(4), labels].mean(), logits

    (expected, expected_logits), expected_gradients = jax.value_and_grad(loss, has_aux=True)(
        {key: jnp.asarray(array) for key, array in weights.items()}
    )
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-9)
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    for key, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected_gradients[key], rtol=1e-7, atol=1e-12)


def test_networks_without_pytorch_names_raise():
    for name in ("preresnet11", "nin"):
        with pytest.raises(dj.InputError, match="has no PyTorch names"):
            dj.weights.to_torch(create(name))


@pytest.mark.parametrize("kind", ["subsample", "pool"])
def test_shortcuts_without_parameters(float64, kind):
    config = model_config("resnet110", shortcut=kind)
    shortcut = Shortcut(4, 6, 2, config, conv=None)
    assert not jax.tree.leaves(nnx.state(shortcut, nnx.Param))
    x = maps()
    y = shortcut(x, Mode())
    assert y.shape == (2, 6, 4, 4) and not y[:, 4:].any()
    means = x.reshape(2, 4, 4, 2, 4, 2).mean((3, 5))
    np.testing.assert_allclose(y[:, :4], x[:, :, ::2, ::2] if kind == "subsample" else means)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["preresnet11", "wrn16_4"])
def test_pre_activation_shares_its_first_norm_with_a_projection(float64, name):
    block = block_of(name, (4, 8, 2))
    x = maps()
    normalized = jax.nn.relu(x / jnp.sqrt(1 + 1e-5))
    branch = block.branch(normalized, Mode())
    shortcut = block(x, Mode(), 1.0) - branch
    np.testing.assert_allclose(shortcut, block.shortcut.conv(normalized), atol=1e-12)
    # Without a projection the shortcut skips the norm.
    block = block_of(name, (4, 4, 1))
    branch = block.branch(normalized, Mode())
    np.testing.assert_allclose(block(x, Mode(), 1.0) - branch, x, atol=1e-12)


def test_survival_decays_linearly():
    survival = create("resnet110", survival=0.5, block_config=(18, 18, 18), widths=(1, 1, 1),
                      stem_features=1).survival()  # fmt: skip
    np.testing.assert_allclose(survival, [1 - l / 54 * 0.5 for l in range(1, 55)])  # noqa: E741


@pytest.mark.slow
def test_expected_output_of_stochastic_depth_is_that_of_evaluation(float64):
    """Checks too that a skipped branch does not move the running statistics."""
    block = block_of("preresnet11", (4, 4, 1), survival=0.7)
    x, survival = maps(), jnp.asarray(0.7)
    # Moves the running statistics to those of this batch.
    kept_branch = _in_training(block, x, 1.0, jax.random.key(0))[0] - x
    graphdef, params, stats = nnx.split(block, nnx.Param, nnx.BatchStat)

    def move(_, stats):
        return _in_training(nnx.merge(graphdef, params, stats), x, 1.0, jax.random.key(0))[1]

    block = nnx.merge(
        graphdef, params, jax.jit(lax.fori_loop, static_argnums=2)(0, 300, move, stats)
    )
    run = jax.jit(jax.vmap(lambda key: _in_training(block, x, survival, key)))
    outputs, after = run(jax.random.split(jax.random.key(1), 400))
    is_kept = np.abs(outputs - x).max((1, 2, 3, 4)) > 0
    np.testing.assert_allclose(outputs[~is_kept], np.broadcast_to(x, outputs[~is_kept].shape))
    np.testing.assert_allclose(outputs[is_kept] - x - kept_branch, 0, atol=1e-9)
    assert is_kept.mean() == pytest.approx(0.7, abs=0.05)
    # Running variances are unbiased estimates of 128 values: 8 x 8 positions of 2 images.
    expected = block(x, Mode(), survival)
    np.testing.assert_allclose(expected, x + 0.7 * kept_branch, atol=0.02)
    for name, old in nnx.to_flat_state(nnx.state(block.branch, nnx.BatchStat)):
        new = dict(nnx.to_flat_state(after["branch"]))[name][...]
        np.testing.assert_array_equal(new[~is_kept], np.broadcast_to(old[...], new[~is_kept].shape))


def _in_training(block, x, survival, key):
    """Returns the output and the new running statistics of a copy of `block`."""
    copy = nnx.merge(*nnx.split(block), copy=True)
    return copy(x, Mode(train=True, key=key), survival), nnx.state(copy, nnx.BatchStat)


def test_blocks_of_a_stack_get_separate_random_numbers():
    class Draw(nnx.Module):
        def __call__(self, x, mode):
            return x + mode.dropout(jnp.ones(64), 0.5)

    stack = Stack(Draw, 3)
    total = stack(jnp.zeros(64), Mode(train=True, key=jax.random.key(0)))
    # If the three masks were equal, every sum would be 0 or 6.
    assert set(np.unique(total).tolist()) == {0.0, 2.0, 4.0, 6.0}


def test_blocks_of_a_stack_have_separate_initial_weights():
    kernel = create("resnet20").stages[0].rest.blocks.branch.convs[0].kernel[...]
    assert kernel.shape == (2, 3, 3, 16, 16) and not np.allclose(kernel[0], kernel[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20", "preresnet29"])
def test_rematerialised_blocks_have_the_same_gradients(float64, name):
    overrides = dict(widths=(4, 8, 8), stem_features=4, dropout_rate=0.2)
    overrides |= dict(dtype=jnp.float64, param_dtype=jnp.float64)
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3), jnp.float64)
    results = []
    for remat in ("none", "block"):
        graphdef, params, rest = nnx.split(create(name, remat=remat, **overrides), nnx.Param, ...)

        def loss(params, graphdef=graphdef, rest=rest):
            return jnp.square(nnx.merge(graphdef, params, rest, copy=True)(images, True)).sum()

        results.append(nnx.to_pure_dict(jax.jit(jax.grad(loss))(params)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), *results)
