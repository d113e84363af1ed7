"""Heat maps and gradient norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import densenet_jax as dj
from densenet_jax.analysis.feature_reuse import heat_maps, rescale, reuse
from densenet_jax.analysis.gradients import gradient_norms


def network(**settings):
    common = dict(growth_rate=2, block_config=(3, 1), stem_features=3)
    return dj.create_model("densenet_k12_d40", rngs=nnx.Rngs(0), **common | settings)


def set_weights(model):
    """Gives every slice of a kernel a different size, and alternating signs."""
    for block in model.blocks:
        for reader, layer in enumerate(block, start=1):
            kernel = layer.conv1.kernel
            signs = np.where(np.indices(kernel.shape).sum(0) % 2, -1.0, 1.0)
            channels = np.arange(kernel.shape[2])[:, None]
            kernel[...] = jnp.asarray(signs * (100 * reader + channels), jnp.float32)


def test_a_heat_map_has_the_mean_absolute_weight_of_each_slice():
    model = network()
    set_weights(model)
    first, second = heat_maps(model)
    # Three channels of the stem, then two of each layer: means of their numbers.
    expected = [[101, 201, 301], [np.nan, 203.5, 303.5], [np.nan, np.nan, 305.5]]
    np.testing.assert_allclose(first[:3, :3], expected)
    assert np.isnan(first[3, :3]).all() and not np.isnan(first[:, 3]).any()
    kernel = np.abs(model.transitions[0].conv.kernel[...])
    np.testing.assert_allclose(first[:, 3], [kernel[:, :, a:b].mean() for a, b in
                                             [(0, 3), (3, 5), (5, 7), (7, 9)]])  # fmt: skip
    kernel = np.abs(model.classifier.kernel[...])
    assert second.shape == (2, 2) and np.isnan(second[1, 0])
    np.testing.assert_allclose(second[:, 1], [kernel[:9].mean(), kernel[9:].mean()], rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "read"),
    [
        ({"connectivity": "logarithmic", "post_activation": True}, [1, 2]),
        ({"connectivity": "odd_even", "bottleneck": 2}, [0, 2]),
        ({"connectivity": "span", "span": 1, "growth_factor": 2}, [2]),
    ],
)
def test_maps_that_are_not_read_are_nan(settings, read):
    [first, _] = heat_maps(network(**settings))
    assert np.flatnonzero(~np.isnan(first[:, 2])).tolist() == read


def test_a_transition_that_only_pools_has_no_weights():
    first, second = heat_maps(network(connectivity="full"))
    assert np.isnan(first[:, 3]).all() and not np.isnan(second[:, 1]).any()
    assert np.isnan(rescale(first)[:, 3]).all()
    assert np.isfinite(reuse(first)[:3]).all() and np.isnan(reuse(first)[3])


def test_only_dense_blocks_have_heat_maps():
    with pytest.raises(dj.InputError, match="a ResNet has no dense blocks"):
        heat_maps(dj.create_model("resnet20", rngs=nnx.Rngs(0)))


def test_columns_are_rescaled_as_in_the_paper():
    raw = np.array([[3.0, 1, 4], [np.nan, 3, 2], [np.nan, np.nan, 3]])
    expected = [[1, 0, 1], [np.nan, 1, 0], [np.nan, np.nan, 0.5]]
    np.testing.assert_array_equal(rescale(raw), expected)


def test_reuse_is_relative_to_all_that_is_read():
    raw = np.array([[3.0, 1], [np.nan, 3]])
    np.testing.assert_allclose(reuse(raw), [(1 + 0.5) / 2, 1.5])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["densenet_bc_k4_d10", "preresnet20"])
def test_gradient_norms(name):
    settings = {} if "dense" in name else {"widths": (4, 8, 8)}
    model = dj.create_model(name, rngs=nnx.Rngs(0), **settings)
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    labels = jnp.array([0, 1, 2, 3])
    found = gradient_norms(model, images, labels)
    names = list(found)
    assert names[0] in ("conv0", "conv1") and names[-1] == "classifier"
    if "dense" in name:
        assert names[1:4] == ["blocks.0.0.conv1", "blocks.0.0.conv2", "transitions.0.conv"]
        assert len(names) == 10
    else:
        # 1 stem, 18 convolutions, 3 projections, 1 classifier.
        assert len(names) == 23

    # The expected value comes from a separate derivative with respect to the classifier's kernel.
    def loss(scale):
        kernel = model.classifier.kernel[...]
        graphdef, state = nnx.split(model)
        merged = nnx.merge(graphdef, state, copy=True)
        merged.classifier.kernel[...] = kernel + scale
        logits = merged(images, train=True)
        return -jax.nn.log_softmax(logits)[jnp.arange(4), labels].mean()

    kernel = model.classifier.kernel[...]
    gradient = jax.jit(jax.grad(loss))(jnp.zeros_like(kernel))
    expected = jnp.linalg.norm(gradient) / jnp.linalg.norm(kernel)
    assert found["classifier"] == pytest.approx(float(expected), rel=1e-4)
