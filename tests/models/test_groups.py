"""`bn_group_size` normalises each group of images as if it were alone on a device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import densenet_jax as dj
from densenet_jax.models.layers import MOMENTUM

NETWORKS = {
    "densenet_bc_k12_d100": dict(growth_rate=4, block_config=(2, 1)),
    "preresnet164": dict(block_config=(3,), widths=(8,), bottleneck_blocks=True),
    "fractalnet21": dict(columns=2, widths=(4, 4)),
}
GROUP = 3


def network(name, **overrides):
    dtype = dict(dtype=jnp.float64, param_dtype=jnp.float64)
    return dj.create_model(name, rngs=nnx.Rngs(0), **NETWORKS[name], **dtype, **overrides)


def train(model, images, mask=None):
    """Returns logits, gradients of a function of the logits that count, old and new statistics."""
    graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = map(nnx.to_pure_dict, states)
    counts = jnp.ones(len(images)) if mask is None else mask

    def function(params):
        merged = nnx.merge(graphdef, params, stats)
        logits = merged(images, train=True, mask=mask)
        return (logits**2 * counts[:, None]).sum(), (logits, nnx.state(merged, nnx.BatchStat))

    gradients, (logits, new_stats) = jax.jit(jax.grad(function, has_aux=True))(params)
    return logits, gradients, stats, nnx.to_pure_dict(new_stats)


def assert_close(one, other):
    def check(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)

    jax.tree.map(check, one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_each_group_is_normalised_as_if_it_were_alone(name, float64):
    images = jax.random.normal(jax.random.key(1), (2 * GROUP, 8, 8, 3), jnp.float64)
    logits, gradients, _, stats = train(network(name, bn_group_size=GROUP), images)
    alone = [train(network(name), images[:GROUP]), train(network(name), images[GROUP:])]
    assert_close(logits, jnp.concatenate([part[0] for part in alone]))
    assert_close(gradients, jax.tree.map(jnp.add, alone[0][1], alone[1][1]))
    # The groups have one size, so the running statistics move towards the mean of the groups'.
    assert_close(stats, jax.tree.map(lambda a, b: (a + b) / 2, alone[0][3], alone[1][3]))


@pytest.mark.slow
def test_padding_does_not_count_in_any_group(float64):
    """Tests a short second and an empty third group, as at the end of an epoch."""
    name = "densenet_bc_k12_d100"
    real = 2 * GROUP - 1
    images = jax.random.normal(jax.random.key(1), (3 * GROUP, 8, 8, 3), jnp.float64)
    images = images.at[real:].set(1e3)
    mask = (jnp.arange(3 * GROUP) < real).astype(jnp.float64)
    logits, gradients, before, stats = train(network(name, bn_group_size=GROUP), images, mask)
    alone = [train(network(name), images[:GROUP]), train(network(name), images[GROUP:real])]
    assert_close(logits[:real], jnp.concatenate([part[0] for part in alone]))
    assert_close(gradients, jax.tree.map(jnp.add, alone[0][1], alone[1][1]))

    def moved(before, one, other):
        share = GROUP / real
        target = share * (one - before) / MOMENTUM + (1 - share) * (other - before) / MOMENTUM
        return before + MOMENTUM * target

    assert_close(stats, jax.tree.map(moved, before, alone[0][3], alone[1][3]))


def test_batches_are_whole_groups():
    model = dj.create_model("densenet_bc_k12_d10", bn_group_size=3, rngs=nnx.Rngs(0))
    images = jnp.zeros((4, 8, 8, 3))
    with pytest.raises(dj.InputError, match=r"batch of 4 images .* bn_group_size 3"):
        model(images, train=True)
    # Evaluation does not use groups.
    assert jax.eval_shape(model, images).shape == (4, 10)
