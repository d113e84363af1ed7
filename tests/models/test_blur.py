"""The blurred stem; tests/test_weights.py compares the whole network with timm's."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import densenet_jax as dj
from densenet_jax.models.blur import blur_pool


@pytest.mark.parametrize("size", [(8, 6), (7, 5), (2, 3)])
def test_pooling_is_a_strided_convolution_of_reflected_maps(size):
    x = np.random.default_rng(0).standard_normal((2, 3, *size)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), "reflect")
    kernel = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32)[None, None] / 16
    maps = jnp.asarray(padded.reshape(6, 1, *padded.shape[2:]))
    expected = lax.conv(maps, jnp.asarray(kernel), (2, 2), "VALID")
    found = blur_pool(jnp.asarray(x))
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-6)


@pytest.mark.parametrize("settings", [{"stem": "cifar"}, {"post_activation": True}])
def test_other_forms_are_refused(settings):
    with pytest.raises(dj.InputError, match="a blurred stem is for pre-activation DenseNets"):
        dj.create_model("densenetblur121d", **settings)
