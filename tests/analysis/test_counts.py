"""Counts of the work and the memory of a network."""

import math
import re

import jax.numpy as jnp
import pytest
from flax import nnx
from jax.ad_checkpoint import print_saved_residuals

import densenet_jax as dj
from densenet_jax.analysis.counts import activation_bytes, count_layer_io
from densenet_jax.models.catalog import model_config


@pytest.mark.parametrize("remat", ["none", "concat", "layer"])
def test_activation_bytes_are_those_that_jax_saves(remat, capsys):
    settings = dict(block_config=(4, 2), growth_rate=4, remat=remat)
    model = dj.create_model("densenet_bc_k12_d100", rngs=nnx.Rngs(0), **settings)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def logits(params, images):
        return nnx.merge(graphdef, params, rest, copy=True)(images, train=True)

    images = jnp.zeros((3, 16, 16, 3))
    print_saved_residuals(lambda p: logits(p, images), params)
    expected = 0
    for line in capsys.readouterr().out.splitlines():
        (shape,) = re.findall(r"^f32\[([\d,]*)\] ", line)
        size = 4 * math.prod(map(int, filter(None, shape.split(","))))
        expected += size if "argument" not in line else 0
    found = activation_bytes(model_config("densenet_bc_k12_d100", **settings), 16, 16, 3)
    # The images are saved too: they are an argument in one count and a constant in the other.
    assert found == pytest.approx(expected, abs=images.nbytes)


@pytest.mark.slow
def test_activation_bytes_grow_with_the_batch_and_shrink_with_the_type():
    def kept(batch_size, **settings):
        config = model_config("densenet_bc_k12_d22", **settings)
        return activation_bytes(config, 32, 32, batch_size)

    assert kept(20) - kept(10) == pytest.approx(kept(30) - kept(20))
    assert kept(20, dtype=jnp.bfloat16) < 0.6 * kept(20)
    assert kept(20, remat="layer") < kept(20) < kept(20, remat="none")


@pytest.mark.slow
def test_every_family_is_counted():
    for name in ("preresnet20", "wrn10_2", "nin", "highway19", "rdnet_tiny"):
        config = model_config(name)
        assert activation_bytes(config, 32, 32, 2) > 2 * 32 * 32 * 4, name


def test_touched_are_inputs_and_outputs():
    """Stem 3x3 to 8 maps, one plain layer 3x3 to 4, a classifier of ten; images of 16 x 16."""
    settings = dict(block_config=(1,), growth_rate=4, bottleneck=0, stem_features=8)
    config = model_config("densenet_bc_k12_d22", **settings)
    assert count_layer_io(config, 16, 16) == 256 * ((3 + 8) + (8 + 4)) + (12 + 10)


def test_touched_count_every_repetition_of_a_loop():
    """ResNets compile equal blocks once."""

    def touched(blocks):
        return count_layer_io(model_config("resnet50", block_config=(blocks,) * 4), 224, 224)

    assert touched(3) - touched(2) == touched(4) - touched(3) > 0
