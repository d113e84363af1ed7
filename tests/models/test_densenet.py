"""Properties of DenseNets on which users rely."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

# Private, but the only way to ask JAX what a backward pass keeps.
from jax._src.ad_checkpoint import saved_residuals

import densenet_jax as dj
from densenet_jax.models.catalog import model_config
from densenet_jax.models.layers import Mode, batch_statistics

TINY = dict(growth_rate=4, depth=10)


def tiny(**overrides) -> nnx.Module:
    return dj.create_model("densenet_bc_k12_d100", rngs=nnx.Rngs(0), **TINY | overrides)


@nnx.jit(static_argnames="train")
def apply(model, x, train=False, mask=None):
    return model(x, train=train, mask=mask)


def images(count=2, size=8, channels=3):
    return jax.random.normal(jax.random.key(1), (count, size, size, channels))


def residual_bytes(layers: int, remat: str, bottleneck: int) -> int:
    """Returns the bytes that one block keeps for the backward pass."""
    model = nnx.eval_shape(
        lambda: dj.create_model(
            "densenet_bc_k12_d100",
            block_config=(layers,),
            remat=remat,
            bottleneck=bottleneck,
            rngs=nnx.Rngs(0),
        )
    )
    graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = map(nnx.to_pure_dict, states)

    def loss(params, stats, x):
        return nnx.merge(graphdef, params, stats)(x, train=True).sum()

    kept = saved_residuals(loss, params, stats, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
    return sum(a.size * a.dtype.itemsize for a, origin in kept if "argument" not in origin)


@pytest.mark.parametrize(
    ("depths", "bottleneck"),
    [((3, 6, 12), 1), pytest.param((4, 8, 16, 32), 4, marks=pytest.mark.slow)],
)
def test_memory_grows_linearly_with_remat_and_quadratically_without(depths, bottleneck):
    grown = {
        remat: np.diff([residual_bytes(n, remat, bottleneck) for n in depths])
        for remat in ("none", "concat", "layer")
    }
    # Twice the layers take twice the bytes, or more than three times if everything is kept.
    for remat in ("concat", "layer"):
        np.testing.assert_allclose(grown[remat][1:] / grown[remat][:-1], 2, rtol=0.05)
        assert grown[remat][-1] < grown["none"][-1] / 10
    assert grown["none"][-1] > 3 * grown["none"][-2]
    assert grown["layer"][-1] < grown["concat"][-1]


def test_training_updates_running_statistics_and_evaluation_does_not():
    model = tiny()
    before = dj.weights.to_torch(model)
    apply(model, images())
    evaluated = dj.weights.to_torch(model)
    apply(model, images(), train=True)
    trained = dj.weights.to_torch(model)
    for name in before:
        np.testing.assert_array_equal(evaluated[name], before[name])
        changed = not np.array_equal(trained[name], before[name])
        assert changed == ("running_" in name), name


def test_masked_images_do_not_count():
    """Three images with one image of padding give the results of the three images alone."""
    full, padded = tiny(), tiny()
    x = images(4)
    mask = jnp.array([1.0, 1.0, 1.0, 0.0])
    expected = apply(full, x[:3], train=True)
    logits = apply(padded, x.at[3].set(1e3), train=True, mask=mask)[:3]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    expected = dj.weights.to_torch(full)
    for name, value in dj.weights.to_torch(padded).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_statistics_of_a_distant_mean_are_accurate():
    noise = np.random.default_rng(0).standard_normal((64, 1, 8, 8)) * 0.01
    mean, var, count = batch_statistics(jnp.asarray(1000 + noise, jnp.float32))
    stored = np.asarray(1000 + noise, np.float32).astype(np.float64)
    np.testing.assert_allclose(mean, stored.mean(), rtol=1e-6)
    np.testing.assert_allclose(var, stored.var(), rtol=2e-2)
    assert count == 64 * 8 * 8


def test_the_variance_of_a_constant_is_not_negative():
    values = jnp.full((64, 1, 8, 8), 1 / 3, jnp.float32)
    assert 0 <= batch_statistics(values).var[0, 0] < 1e-6


def test_dropout_drops_in_training_only_and_differently_each_time():
    model = tiny(dropout_rate=0.5)
    x = images()
    assert not np.array_equal(apply(model, x, train=True), apply(model, x, train=True))
    np.testing.assert_array_equal(apply(model, x), apply(model, x))


@pytest.mark.parametrize(("bottleneck", "per_layer"), [(0, 1), (4, 2)])
def test_dropout_follows_every_convolution_but_the_first(bottleneck, per_layer):
    model = nnx.eval_shape(lambda: tiny(depth=16, bottleneck=bottleneck, dropout_rate=0.2))
    graphdef, state = nnx.split(model)
    forward = jax.make_jaxpr(lambda state, x: nnx.merge(graphdef, state)(x, train=True))
    masks = count_primitive(forward(state, images()).jaxpr, "random_bits")
    assert masks == sum(model.config.blocks) * per_layer + 2, "two are the transitions'"


def count_primitive(jaxpr, name: str) -> int:
    """Returns how often a primitive runs in one call, including called functions."""
    total = 0
    for equation in jaxpr.eqns:
        total += equation.primitive.name == name
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            total += count_primitive(inner, name) if hasattr(inner, "eqns") else 0
    return total


def test_dropout_keeps_the_expectation():
    dropped = Mode(train=True, key=jax.random.key(0)).dropout(jnp.ones((100, 10, 10, 10)), 0.2)
    assert set(np.unique(dropped)) == {0.0, 1.25}
    assert abs(float(dropped.mean()) - 1) < 0.01


@pytest.mark.slow
def test_bfloat16_keeps_parameters_statistics_and_logits_in_float32():
    model = tiny(dtype=jnp.bfloat16)
    logits = apply(model, images(8), train=True)
    assert logits.dtype == jnp.float32
    assert {a.dtype.name for a in dj.weights.to_torch(model).values()} == {"float32"}
    exact = apply(tiny(), images(8), train=True)
    assert 0 < np.abs(logits - exact).max() < 0.1


def test_initialisation_is_the_authors():
    """Convolutions: He with fan-out; linear layer: +-1/sqrt(fan-in); BatchNorm: scale 1."""
    state = dj.weights.to_torch(tiny(growth_rate=24))
    conv = state["features.denseblock1.denselayer1.conv1.weight"]  # 48 -> 96, 1x1
    assert conv.std() == pytest.approx((2 / 96) ** 0.5, rel=0.05)
    conv = state["features.denseblock1.denselayer1.conv2.weight"]  # 96 -> 24, 3x3
    assert conv.std() == pytest.approx((2 / (9 * 24)) ** 0.5, rel=0.05)
    linear = state["classifier.weight"]
    limit = linear.shape[1] ** -0.5
    assert 0.95 * limit < np.abs(linear).max() <= limit
    assert not state["classifier.bias"].any()
    assert (state["features.norm5.weight"] == 1).all()


def test_initialisation_is_the_same_under_jit():
    def make():
        return nnx.state(tiny(), nnx.Param)

    jax.tree.map(np.testing.assert_array_equal, jax.jit(make)(), make())


def test_compression_rounds_down_and_stems_follow_the_paper():
    state = dj.weights.to_torch(tiny(growth_rate=5, compression=0.3))
    # Stem 2k = 10 and one layer of 5: floor(0.3 * 15) = 4.
    assert state["features.conv0.weight"].shape == (10, 3, 3, 3)
    assert state["features.transition1.conv.weight"].shape == (4, 15, 1, 1)
    assert model_config("densenet_k12_d40").stem_features == 16


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"depth": 41}, "depth is 41.* 40 or 46"),
        ({"depth": 1}, "for example 10 or 16"),
        ({"depth": 42, "bottleneck": 0}, "without bottlenecks has depth 3 n"),
        ({"compression": 0.0}, "compression is 0"),
        ({"compression": 1.5}, "compression is 1.5"),
        ({"compression": 0.001}, "leaves none"),
        ({"growth_rate": 0}, "growth_rate is 0"),
        ({"dropout_rate": 1.0}, "dropout_rate is 1"),
        ({"remat": "all"}, "remat is 'all'.*concat"),
        ({"block_config": ()}, "at least one layer"),
        ({"block_config": (4, 0)}, "at least one layer"),
        ({"block_config": (4, 4), "depth": 40}, "either depth or block_config"),
        ({"grow_rate": 12}, "did you mean 'growth_rate'"),
    ],
)
def test_impossible_networks_are_refused(overrides, message):
    with pytest.raises(dj.InputError, match=message):
        dj.create_model("densenet_bc_k12_d100", rngs=nnx.Rngs(0), **overrides)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (8, 8, 3), (2, 2, 8, 3)])
def test_images_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(dj.InputError, match="expected \\[batch, height, width, 3\\]"):
        tiny()(jnp.zeros(shape))
