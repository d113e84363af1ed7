"""What a training step keeps, counted."""

import jax.numpy as jnp
import pytest
from flax import nnx
from jax._src.ad_checkpoint import saved_residuals

import densenet_jax as dj
from densenet_jax.analysis.counts import activation_bytes, count_touched
from densenet_jax.models.catalog import model_config


@pytest.mark.parametrize("remat", ["none", "concat", "layer"])
def test_activation_bytes_are_what_jax_says_it_saves(remat):
    settings = dict(block_config=(4, 2), growth_rate=4, remat=remat)
    model = dj.create_model("densenet_bc_k12_d100", rngs=nnx.Rngs(0), **settings)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def logits(params, images):
        return nnx.merge(graphdef, params, rest, copy=True)(images, train=True)

    images = jnp.zeros((3, 16, 16, 3))
    kept = saved_residuals(lambda p: logits(p, images), params)
    expected = sum(a.size * a.dtype.itemsize for a, origin in kept if "argument" not in origin)
    found = activation_bytes(model_config("densenet_bc_k12_d100", **settings), 16, 16, 3)
    # The images are kept too, which are an argument here and a constant there.
    assert found == pytest.approx(expected, abs=images.nbytes)


def test_activation_bytes_grow_with_the_batch_and_shrink_with_the_type():
    def kept(batch_size, **settings):
        config = model_config("densenet_bc_k12_d22", **settings)
        return activation_bytes(config, 32, 32, batch_size)

    assert kept(20) - kept(10) == pytest.approx(kept(30) - kept(20))
    assert kept(20, dtype=jnp.bfloat16) < 0.6 * kept(20)
    assert kept(20, remat="layer") < kept(20) < kept(20, remat="none")


def test_every_family_is_counted():
    for name in ("preresnet20", "wrn10_2", "nin", "highway19", "rdnet_tiny"):
        config = model_config(name)
        assert activation_bytes(config, 32, 32, 2) > 2 * 32 * 32 * 4, name


def test_touched_are_inputs_and_outputs():
    """Stem 3x3 to 8 maps, one plain layer 3x3 to 4, a classifier of ten; images of 16 x 16."""
    settings = dict(block_config=(1,), growth_rate=4, bottleneck=0, stem_features=8)
    config = model_config("densenet_bc_k12_d22", **settings)
    assert count_touched(config, 16, 16) == 256 * ((3 + 8) + (8 + 4)) + (12 + 10)


def test_touched_count_every_repetition_of_a_loop():
    """ResNets compile equal blocks once."""

    def touched(blocks):
        return count_touched(model_config("resnet50", block_config=(blocks,) * 4), 224, 224)

    assert touched(3) - touched(2) == touched(4) - touched(3) > 0
