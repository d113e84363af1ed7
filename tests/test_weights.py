"""PyTorch-named weights in and out."""

import jax
import numpy as np
import pytest
from flax import nnx

import densenet_jax as dj


def model(seed=0, **overrides):
    return dj.create_model("densenet_bc_k12_d10", growth_rate=4, rngs=nnx.Rngs(seed), **overrides)


def test_round_trip_is_bitwise():
    source, target = model(0), model(1)
    source(jax.random.normal(jax.random.key(0), (2, 8, 8, 3)), train=True)
    dj.weights.load_torch(target, dj.weights.to_torch(source))
    expected = dj.weights.to_torch(source)
    for name, array in dj.weights.to_torch(target).items():
        np.testing.assert_array_equal(array, expected[name])


def test_names_and_layouts_are_torchvisions():
    shapes = {name: array.shape for name, array in dj.weights.to_torch(model()).items()}
    assert shapes["features.denseblock1.denselayer1.conv2.weight"] == (4, 16, 3, 3)
    assert shapes["features.transition2.norm.running_var"] == (10,)
    assert shapes["features.norm5.bias"] == (9,)
    assert shapes["classifier.weight"] == (10, 9)
    # 3 layers of 8 and 2, 2 transitions of 4 and 1, the stem, norm5, the classifier.
    assert len(shapes) == 3 * (8 + 2) + 2 * (4 + 1) + 1 + 4 + 2


def test_imagenet_stem_has_its_own_norm():
    network = nnx.eval_shape(lambda: dj.create_model("densenet121", rngs=nnx.Rngs(0)))
    assert network.norm0.scale.shape == (64,)


def test_batch_counters_are_ignored():
    network = model()
    source = dj.weights.to_torch(network) | {"features.norm5.num_batches_tracked": np.array(7)}
    dj.weights.load_torch(network, source)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classifier.bias": None}, "missing classifier.bias \\(10,\\)"),
        ({"head.bias": np.zeros(3)}, "unexpected head.bias \\(3,\\)"),
        (
            {"classifier.bias": np.zeros(7)},
            "classifier.bias has shape \\(7,\\) instead of \\(10,\\)",
        ),
    ],
)
def test_wrong_weights_are_refused_and_change_nothing(change, message):
    network = model()
    before = dj.weights.to_torch(network)
    source = {name: array + 1 for name, array in before.items()} | change
    source = {name: array for name, array in source.items() if array is not None}
    with pytest.raises(dj.InputError, match=message):
        dj.weights.load_torch(network, source)
    for name, array in dj.weights.to_torch(network).items():
        np.testing.assert_array_equal(array, before[name])
