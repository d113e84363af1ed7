"""The other compared networks behave as their papers describe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow_except
from flax import nnx

import densenet_jax as dj
from densenet_jax.models.catalog import model_config
from densenet_jax.models.fractalnet import FractalBlock, Paths, join
from densenet_jax.models.highway import HighwayLayer
from densenet_jax.models.layers import Conv, Mode, SqueezeExcitation
from densenet_jax.models.pooling import max_pool
from densenet_jax.models.rdnet import LayerNorm
from densenet_jax.train.losses import Loss

TINY = {
    "nin": dict(mlpconv_widths=(8,) * 8),
    "dsn": dict(mlpconv_widths=(8,) * 8, companion_size=8),
    "all_cnn_c": dict(stage_widths=(8, 8)),
    "highway19": dict(block_config=(1, 2, 1), widths=(4, 4, 4), head_features=8),
    "fractalnet21": dict(columns=2, widths=(4, 4, 4), dropout_rate=0.2, drop_path_rate=0.5),
    "rdnet_tiny": dict(
        stem_features=8, stage_growth_rates=(8, 8), downsampling=(1,), drop_path_rate=0.5
    ),
    "densenet_bc_k4_d10": dict(se_ratio=2),
}


def tiny(name, **overrides):
    return dj.create_model(name, rngs=nnx.Rngs(0), **TINY[name] | overrides)


def images(size=8):
    return jax.random.normal(jax.random.key(1), (2, size, size, 3))


@nnx.jit(static_argnames="train")
def apply(model, x, train=False):
    return model(x, train=train)


@pytest.mark.parametrize("name", slow_except(["fractalnet21"], TINY))
def test_evaluation_is_deterministic_and_training_is_random(name):
    model = tiny(name)
    tested = apply(model, images())
    assert tested.shape == (2, 1000 if name == "rdnet_tiny" else 10)
    assert np.isfinite(tested).all()
    np.testing.assert_array_equal(apply(model, images()), tested)
    random = "densenet" not in name
    trained = [apply(model, images(), train=True) for _ in range(3)]
    assert any(not np.array_equal(one, trained[0]) for one in trained[1:]) == random


@pytest.mark.parametrize("name", TINY)
def test_images_must_be_large_enough(name):
    with pytest.raises(dj.InputError, match="height and width of at least"):
        tiny(name)(images(2))


def gradients(model, weight):
    """Returns the gradients of the training loss, with companions weighted by `weight`."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    @jax.grad
    def gradient(params):
        merged = nnx.merge(graphdef, params, rest, copy=True)
        total = Loss("squared_hinge")(merged(images(), train=True), jnp.array([0, 1])).mean()
        for logits in jax.tree.leaves(nnx.state(merged, nnx.Intermediate)):
            total += weight * Loss("squared_hinge")(logits, jnp.array([0, 1])).mean()
        return total

    return gradient(params)


@pytest.mark.slow
def test_companions_teach_in_training():
    model = tiny("dsn")
    with_, without = gradients(model, 1.0), gradients(model, 0.0)
    for i in range(3):
        assert np.abs(with_["companions"][i]["kernel"][...]).max() > 0
        assert not without["companions"][i]["kernel"][...].any()
    # The first companion reads the first convolution and changes its gradient.
    first = [found["convs"][0]["kernel"][...] for found in (with_, without)]
    assert not np.allclose(*first)


@pytest.mark.slow
def test_companions_do_not_affect_evaluation():
    model = tiny("dsn")
    model(images(), train=True)
    assert len(jax.tree.leaves(nnx.state(model, nnx.Intermediate))) == 3
    fresh = tiny("dsn")
    expected = fresh(images())
    assert not jax.tree.leaves(nnx.state(fresh, nnx.Intermediate))
    for companion in fresh.companions:
        companion.kernel[...] = jnp.full_like(companion.kernel[...], jnp.nan)
    np.testing.assert_array_equal(fresh(images()), expected)
    # Images of another size can be evaluated, but not trained on.
    fresh(images(16))
    with pytest.raises(dj.InputError, match="built for images of 8 x 8"):
        fresh(images(16), train=True)


def test_poolings_of_nin_overhang_the_edge():
    """Caffe and cuda-convnet pool 3 x 3 windows from the corner at every second position."""
    x = jnp.arange(16.0).reshape(1, 1, 4, 4)
    np.testing.assert_array_equal(max_pool(x, padding=(0, 1))[0, 0], [[10, 11], [14, 15]])


def test_highway_layer():
    conv = lambda *sizes: Conv(*sizes, bias=True, rngs=nnx.Rngs(0))  # noqa: E731
    layer = HighwayLayer(4, conv=conv)
    np.testing.assert_array_equal(layer.gate.bias[...], -2)
    x = jax.random.normal(jax.random.key(0), (2, 4, 8, 8))
    gate = 1 / (1 + np.exp(-layer.gate(x)))
    expected = np.maximum(layer.conv(x), 0) * gate + x * (1 - gate)
    np.testing.assert_allclose(layer(x, Mode()), expected, rtol=1e-5, atol=1e-6)


def test_fractal_block_is_the_fractal_of_the_paper():
    config = model_config("fractalnet21", columns=3)
    block = FractalBlock(2, 3, config, rngs=nnx.Rngs(0))
    assert [len(column) for column in block.columns] == [4, 2, 1]
    x = jax.random.normal(jax.random.key(0), (2, 2, 8, 8))

    def ends(columns, x, start):
        """Returns the ends before the last join: f_1 = conv; f_C = join(f_(C-1) f_(C-1), conv)."""
        conv = block.columns[columns - 1][start // 2 ** (columns - 1)]
        if columns == 1:
            return [conv(x, Mode(), 0)]
        half = sum(ends(columns - 1, x, start)) / (columns - 1)
        return [*ends(columns - 1, half, start + 2 ** (columns - 2)), conv(x, Mode(), 0)]

    expected = sum(max_pool(end, size=2, padding=(0, 0)) for end in ends(3, x, 0)) / 3
    np.testing.assert_allclose(block(x, Mode(), 0, None), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_drop_path_keeps_at_least_one_path():
    def kept(key, rate):
        paths = Paths.draw(key, rate, columns=3)
        joins = [paths.kept(depth, 1 + depth % 3) for depth in range(6)]
        return joins, paths.is_global, paths.column

    keys = jax.random.split(jax.random.key(0), 500)
    for rate in (0.15, 0.99):
        joins, is_global, column = jax.vmap(lambda key, rate=rate: kept(key, rate))(keys)
        assert 0.4 < np.mean(is_global) < 0.6 and set(np.unique(column)) == {0, 1, 2}
        for at in joins:
            inputs = at.shape[1]
            assert (at.sum(1) >= 1).all()
            # Global drop-path keeps only the step's column, in joins that read it.
            alone = at[is_global & (column < inputs)]
            assert (alone.sum(1) == 1).all()
            np.testing.assert_array_equal(alone.argmax(1), column[is_global & (column < inputs)])
            if inputs > 1 and rate < 0.5:
                dropped = 1 - np.mean(at[~is_global])
                # Below the rate, because one input is spared when all would be dropped.
                assert rate - 0.05 < dropped + rate**inputs / inputs < rate + 0.05


def test_a_join_is_the_mean_of_what_is_kept():
    inputs = [jnp.full((1, 1, 2, 2), value) for value in (1.0, 2.0, 6.0)]
    np.testing.assert_allclose(join(inputs, None), np.full((1, 1, 2, 2), 3))
    np.testing.assert_allclose(join(inputs, jnp.array([1.0, 0.0, 1.0])), np.full((1, 1, 2, 2), 3.5))


def test_squeeze_and_excitation():
    layer = SqueezeExcitation(4, 2, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 4, 3, 3))
    hidden = np.maximum(np.mean(x, (2, 3)) @ layer.squeeze.kernel[...], 0)
    weights = 1 / (1 + np.exp(-hidden @ layer.excite.kernel[...]))
    np.testing.assert_allclose(layer(x), x * weights[:, :, None, None], rtol=1e-5, atol=1e-6)


def test_layer_norm_of_channels():
    norm = LayerNorm(5, param_dtype=jnp.float32)
    y = norm(3 * jax.random.normal(jax.random.key(0), (2, 5, 3, 3)) + 7)
    np.testing.assert_allclose(y.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(y.var(1), 1, atol=1e-4)


def test_whole_images_are_dropped_and_the_others_scaled():
    x = jnp.ones((1000, 2, 3, 3))
    y = Mode(train=True, key=jax.random.key(0)).drop_images(x, 0.25)
    assert set(np.unique(y).tolist()) == {0.0, float(np.float32(1 / 0.75))}
    assert (y.reshape(1000, -1).std(1) == 0).all()
    assert np.mean(y) == pytest.approx(1, abs=0.05)
