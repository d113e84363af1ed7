"""Comparison of TPAMI's variants of a dense block with literal implementations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow_except
from flax import nnx
from jax import lax

import densenet_jax as dj
from densenet_jax.models.catalog import model_config
from densenet_jax.models.densenet import layers_read

GROWTH_RATE, LAYERS = 3, (5, 1)
VARIANTS = {
    "block": {},
    "full": {"connectivity": "full"},
    "span": {"connectivity": "span", "span": 2},
    "odd_even": {"connectivity": "odd_even"},
    "logarithmic": {"connectivity": "logarithmic"},
    "exponential": {"growth_factor": 2},
    "post": {"post_activation": True},
    "post, full": {"post_activation": True, "connectivity": "full"},
    "post, logarithmic, plain": {
        "post_activation": True,
        "connectivity": "logarithmic",
        "bottleneck": 0,
    },
    "post, imagenet": {"post_activation": True, "stem": "imagenet"},
}
# The layers that layers 1 to 5 read.
READ = {
    "block": [(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 3, 4)],
    "full": [(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 3, 4)],
    "span": [(0,), (0, 1), (1, 2), (2, 3), (3, 4)],
    "odd_even": [(0,), (1,), (0, 2), (1, 3), (0, 2, 4)],
    "logarithmic": [(0,), (0, 1), (1, 2), (0, 2, 3), (1, 3, 4)],
}


def conv(x, kernel, stride=1):
    layout = ("NHWC", "HWIO", "NHWC")
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), 2 * [(pad, pad)], None, None,
                                    layout)  # fmt: skip


def pool(x):
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


def literal(config, params, images, observed):
    """Returns training logits; adds batch statistics to `observed` by the norm's path."""

    def norm_relu(x, *path):
        p = functools.reduce(lambda tree, key: tree[key], path, params)
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        observed[path] = (mean, var * x[..., 0].size / (x[..., 0].size - 1))
        return nnx.relu((x - mean) / jnp.sqrt(var + 1e-5) * p["scale"] + p["bias"])

    post, plain = config.post_activation, not config.bottleneck
    concat = functools.partial(jnp.concatenate, axis=-1)
    large = config.stem == "imagenet"
    x = conv(images, params["conv0"]["kernel"], 2 if large else 1)
    if large or post:
        x = norm_relu(x, "norm0")
    if large:
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1),
                              [(0, 0), (1, 1), (1, 1), (0, 0)])  # fmt: skip
    for b, layers in enumerate(config.blocks):
        if b and config.connectivity == "full":
            x = pool(x)
        elif b:
            path = ("transitions", b - 1)
            kernel = params["transitions"][b - 1]["conv"]["kernel"]
            if post:
                x = pool(norm_relu(conv(x, kernel), *path, "norm"))
            else:
                x = pool(conv(norm_relu(x, *path, "norm"), kernel))
        outputs = [x]
        for i in range(layers):
            path = ("blocks", b, i)
            p = params["blocks"][b][i]
            x = concat([outputs[s] for s in READ[config.connectivity][i]])
            if not post:
                x = norm_relu(x, *path, "norm1")
            x = conv(x, p["conv1"]["kernel"])
            if not plain:
                x = conv(norm_relu(x, *path, "norm2"), p["conv2"]["kernel"])
            if post:
                x = norm_relu(x, *path, "norm1")
            outputs.append(x)
        x = concat(outputs)
    if not post:
        x = norm_relu(x, "norm5")
    return x.mean((1, 2)) @ params["classifier"]["kernel"] + params["classifier"]["bias"]


def settings(variant: str) -> dict:
    return dict(growth_rate=GROWTH_RATE, block_config=LAYERS, bottleneck=2) | VARIANTS[variant]


CASES = [(variant, remat) for variant in VARIANTS for remat in ("none", "concat", "layer")]


@pytest.mark.parametrize(("variant", "remat"), slow_except([("post, imagenet", "concat")], CASES))
def test_gradients_and_statistics_are_those_of_the_literal_network(variant, remat, float64):
    double = dict(dtype=jnp.float64, param_dtype=jnp.float64)
    model = dj.create_model(
        "densenet_bc_k12_d100", rngs=nnx.Rngs(0), remat=remat, **double, **settings(variant)
    )
    size = 16 if model.config.stem == "imagenet" else 8
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((4, size, size, 3)))
    weighting = jnp.asarray(rng.standard_normal((4, 10)))
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    # Scales differ from 1, shifts from 0.
    params = jax.tree.map(
        lambda p: p + 0.3 * rng.standard_normal(p.shape), nnx.to_pure_dict(params)
    )

    def expected(params):
        observed = {}
        logits = literal(model.config, params, images, observed)
        return (weighting * logits).sum(), list(observed.values())

    def ours(params):
        merged = nnx.merge(graphdef, params, stats, copy=True)
        logits = merged(images, train=True)
        return (weighting * logits).sum(), nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat))

    (value, observed), gradients = jax.jit(jax.value_and_grad(expected, has_aux=True))(params)
    (found, tracked), found_gradients = jax.jit(jax.value_and_grad(ours, has_aux=True))(params)
    np.testing.assert_allclose(found, value, rtol=1e-10)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-10)
    jax.tree.map(compare, found_gradients, gradients)
    norms = [
        (norm["mean"], norm["var"])
        for norm in jax.tree.leaves(tracked, is_leaf=lambda node: "mean" in node)
    ]
    assert len(norms) == len(observed)
    # Sorted, because running statistics are in order of names.
    by_sum = functools.partial(sorted, key=lambda pair: float(pair[0].sum()))
    moved = [(0.1 * mean, 0.9 + 0.1 * var) for mean, var in observed]
    for pair, expected_pair in zip(by_sum(norms), by_sum(moved), strict=True):
        compare(pair[0], expected_pair[0])
        compare(pair[1], expected_pair[1])


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["full", "logarithmic", "post, full"])
def test_evaluation_is_training_by_running_statistics(variant):
    """After many steps on the same images the running statistics equal the batch's."""
    model = dj.create_model("densenet_bc_k12_d100", rngs=nnx.Rngs(0), **settings(variant))
    images = jax.random.normal(jax.random.key(0), (64, 8, 8, 3))
    apply = nnx.jit(lambda model, x, train: model(x, train=train), static_argnames="train")
    for _ in range(100):
        logits = apply(model, images, train=True)
    np.testing.assert_allclose(apply(model, images, train=False), logits, rtol=0.01, atol=0.01)
    maps = nnx.jit(lambda model, x: model.features(x))(model, images)
    pooled = maps["norm5"].mean((1, 2))
    classifier = model.classifier
    np.testing.assert_allclose(
        pooled @ classifier.kernel[...] + classifier.bias[...],
        apply(model, images, train=False),
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.parametrize("connectivity", ["block", "span", "odd_even", "logarithmic"])
def test_layers_read_follows_the_paper(connectivity):
    config = model_config("densenet121", connectivity=connectivity, span=2)
    assert [tuple(layers_read(config, layer)) for layer in range(1, 6)] == READ[connectivity]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"connectivity": "dense"}, "choose one of block, full, span, odd_even, logarithmic"),
        ({"span": 0}, "span is 0: it must be at least 1"),
        ({"growth_factor": 0}, "growth_factor is 0: it must be at least 1"),
    ],
)
def test_impossible_variants_are_refused(overrides, message):
    with pytest.raises(dj.InputError, match=message):
        model_config("densenet121", **overrides)


def test_post_activation_has_no_names_in_pytorch():
    model = dj.create_model("densenet_bc_k4_d10", rngs=nnx.Rngs(0), post_activation=True)
    with pytest.raises(dj.InputError, match="has no PyTorch names"):
        dj.weights.to_torch(model)
