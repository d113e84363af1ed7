"""PyTorch-named weights in and out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_keys
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


@pytest.mark.parametrize(
    "rename",
    [torch_keys.as_older_torchvision, torch_keys.as_memory_efficient, torch_keys.as_mmpretrain],
)
def test_names_of_other_libraries(rename):
    overrides = dict(stem="imagenet", block_config=(2, 1))
    source, target = model(0, **overrides), model(1, **overrides)
    expected = dj.weights.to_torch(source)
    renamed = {rename(name): array for name, array in expected.items()}
    assert renamed.keys() != expected.keys() and len(renamed) == len(expected)
    dj.weights.load_torch(target, renamed)
    for name, array in dj.weights.to_torch(target).items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize(
    "name, overrides, head",
    [
        ("densenet_bc_k12_d10", dict(growth_rate=4), "classifier."),
        ("resnet50", dict(block_config=(2, 2), widths=(8, 16)), "fc."),
        ("rdnet_tiny", dict(stage_growth_rates=(8, 8, 8), downsampling=(1,)), "head.fc."),
    ],
)
def test_all_but_the_head(name, overrides, head):
    """For other classes: the head stays as it was."""
    source = dj.create_model(name, num_classes=7, rngs=nnx.Rngs(0), **overrides)
    target = dj.create_model(name, num_classes=3, rngs=nnx.Rngs(1), **overrides)
    before, given = dj.weights.to_torch(target), dj.weights.to_torch(source)
    with pytest.raises(dj.InputError, match=r"has shape \(7.* instead of \(3"):
        dj.weights.load_torch(target, given)
    dj.weights.load_torch(target, given, head=False)
    for key, array in dj.weights.to_torch(target).items():
        expected = before if key.startswith(head) else given
        np.testing.assert_array_equal(array, expected[key])


def test_names_of_an_rdnet_are_timms():
    network = dj.create_model(
        "rdnet_tiny", stage_growth_rates=(8, 8, 8), downsampling=(1,), rngs=nnx.Rngs(0)
    )
    shapes = {name: array.shape for name, array in dj.weights.to_torch(network).items()}
    assert shapes["stem.0.weight"] == (64, 3, 4, 4)
    assert shapes["dense_stages.0.0.dense_block2.layers.layers.0.weight"] == (80, 1, 7, 7)
    assert shapes["dense_stages.1.1.weight"] == (40, 88, 2, 2)
    assert shapes["dense_stages.2.2.dense_block0.layers.layers.5.fc.bias"] == (8,)
    assert shapes["dense_stages.2.2.dense_block0.gamma"] == (8,)
    assert "head.norm.weight" in shapes and "head.fc.bias" in shapes


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["densenet121", "densenet169", "densenet201", "densenet161", "resnet50", "rdnet_tiny"]
)
def test_timms_networks_give_the_same(name, float64):
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model(name, pretrained=False).double().eval()
    for array in theirs.state_dict().values():
        if array.dtype == torch.float64 and array.ndim == 1:  # Of norms and biases, far from 0.
            array.uniform_(0.5, 1.5)
    x = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(x).numpy()
    network = dj.create_model(
        name, num_classes=1000, rngs=nnx.Rngs(0), dtype=jnp.float64, param_dtype=jnp.float64
    )
    dj.weights.load_torch(network, {k: v.numpy() for k, v in theirs.state_dict().items()})
    logits = jax.jit(lambda m, x: m(x))(network, x.numpy().transpose(0, 2, 3, 1))
    np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
