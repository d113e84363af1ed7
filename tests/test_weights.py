"""Loading and returning weights under PyTorch's names."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_keys
from flax import nnx
from safetensors.numpy import load_file, save_file

import densenet_jax as dj

FAMILIES = {
    "densenet": ("densenet_bc_k12_d10", dict(growth_rate=4), "classifier."),
    "resnet": ("resnet50", dict(block_config=(2, 2), widths=(8, 16)), "fc."),
    "rdnet": ("rdnet_tiny", dict(stage_growth_rates=(8, 8, 8), downsampling=(1,)), "head.fc."),
}


def model(seed=0, **overrides):
    return dj.create_model("densenet_bc_k12_d10", growth_rate=4, rngs=nnx.Rngs(seed), **overrides)


def test_round_trip_is_bitwise():
    network, random = model(), np.random.default_rng(0)
    shapes = {name: array.shape for name, array in dj.weights.to_torch(network).items()}
    arrays = {name: random.random(shape, np.float32) for name, shape in shapes.items()}
    dj.weights.load_torch(network, arrays)
    found = dj.weights.to_torch(network)
    assert found.keys() == arrays.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, arrays[name])


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
@pytest.mark.parametrize("prefix", ["", "model."])
def test_names_of_other_libraries(rename, prefix):
    overrides = dict(stem="imagenet", block_config=(2, 1))
    source, target = model(0, **overrides), model(1, **overrides)
    expected = dj.weights.to_torch(source)
    renamed = {prefix + rename(name): array for name, array in expected.items()}
    assert renamed.keys() != expected.keys() and len(renamed) == len(expected)
    dj.weights.load_torch(target, renamed)
    for name, array in dj.weights.to_torch(target).items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("name, overrides, head", FAMILIES.values(), ids=FAMILIES)
def test_all_but_the_head(name, overrides, head):
    """The head stays unchanged if the file has other classes."""
    source = dj.create_model(name, num_classes=7, rngs=nnx.Rngs(0), **overrides)
    target = dj.create_model(name, num_classes=3, rngs=nnx.Rngs(1), **overrides)
    before, given = dj.weights.to_torch(target), dj.weights.to_torch(source)
    with pytest.raises(dj.InputError, match=r"has shape \(7.* instead of \(3"):
        dj.weights.load_torch(target, given)
    dj.weights.load_torch(target, given, head=False)
    for key, array in dj.weights.to_torch(target).items():
        expected = before if key.startswith(head) else given
        np.testing.assert_array_equal(array, expected[key])


@pytest.mark.parametrize("family", FAMILIES)
def test_prefixes(family):
    name, overrides, head = FAMILIES[family]
    source, target = (dj.create_model(name, rngs=nnx.Rngs(i), **overrides) for i in range(2))
    arrays = dj.weights.to_torch(source)
    zeros = {key: np.zeros_like(array) for key, array in arrays.items()}
    renamings = [
        *("_orig_mod.", "model.", "net.", "module.module.", "module.densenet121.", "encoder."),
        lambda key: key if key.startswith(head) else f"backbone.{key}",
        lambda key: f"module.{key}" if key.startswith(head) else f"module.backbone.{key}",
    ]
    for rename in renamings:
        if isinstance(rename, str):
            rename = (rename + "{}").format
        dj.weights.load_torch(target, zeros)
        dj.weights.load_torch(target, {rename(key): array for key, array in arrays.items()})
        for key, array in dj.weights.to_torch(target).items():
            np.testing.assert_array_equal(array, arrays[key])


def test_a_resnet_of_mmpretrain():
    name, overrides, _ = FAMILIES["resnet"]
    source, target = (dj.create_model(name, rngs=nnx.Rngs(i), **overrides) for i in range(2))
    arrays = dj.weights.to_torch(source)
    renamed = {
        key.replace("fc.", "head.fc.") if key.startswith("fc.") else f"backbone.{key}": array
        for key, array in arrays.items()
    }
    dj.weights.load_torch(target, renamed)
    for key, array in dj.weights.to_torch(target).items():
        np.testing.assert_array_equal(array, arrays[key])


def test_names_in_a_file_and_expected_names_are_shown():
    network = model()
    arrays = dj.weights.to_torch(network)
    strange = {f"blocks.{key[::-1]}": array for key, array in arrays.items()}
    with pytest.raises(dj.InputError) as caught:
        dj.weights.load_torch(network, strange)
    missing, unexpected = str(caught.value).split("; ")
    assert missing.startswith("these weights are not this network's: missing features.")
    assert missing.endswith(f" and {len(arrays) - 3} more")
    assert unexpected.startswith("unexpected blocks.")
    assert f" and {len(arrays) - 3} more: choose the model" in unexpected


def test_unexpected_arrays_have_their_names_in_the_file():
    network = model()
    arrays = {f"module.{key}": array for key, array in dj.weights.to_torch(network).items()}
    arrays["module.projection.weight"] = np.ones(3)
    with pytest.raises(dj.InputError, match=r"unexpected module\.projection\.weight \(3,\)"):
        dj.weights.load_torch(network, arrays)


def test_two_arrays_for_one_parameter():
    network = model()
    arrays = dj.weights.to_torch(network)
    twice = {f"module.{key}": array for key, array in arrays.items()}
    twice["classifier.bias"] = np.ones(10)
    with pytest.raises(
        dj.InputError, match=r"classifier\.bias, module\.classifier\.bias and class"
    ):
        dj.weights.load_torch(network, twice)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_arrays_of_no_layer_are_ignored(prefix, caplog):
    """The arrays are torchxrayvision's thresholds, some of which are NaN, and a counter."""
    network = model()
    arrays = {prefix + key: array for key, array in dj.weights.to_torch(network).items()}
    arrays |= {f"{prefix}op_threshs": np.array([0.5, np.nan]), "n_averaged": np.array(3)}
    dj.weights.load_torch(network, arrays)
    assert "ignored op_threshs, n_averaged, which belong to no layer" in caplog.messages[-1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["absent", "no bias", "other classes", "two layers"])
def test_a_new_head(family, kind, caplog):
    """With head=None the head of a file is loaded whole or not at all."""
    name, overrides, head = FAMILIES[family]
    target = dj.create_model(name, num_classes=3, rngs=nnx.Rngs(1), **overrides)
    before = dj.weights.to_torch(target)
    given = {key: array + 1 for key, array in before.items()}
    heads = {key: given.pop(key) for key in list(given) if key.startswith(head)}
    weight, bias = heads[f"{head}weight"], heads[f"{head}bias"]
    given |= {
        "absent": {},
        "no bias": {f"{head}weight": weight},
        "other classes": {f"{head}weight": weight[:2], f"{head}bias": bias[:2]},
        "two layers": {
            f"{head}{layer}.{leaf}": heads[head + leaf]
            for layer in (0, 2)
            for leaf in ("weight", "bias")
        },
    }[kind]
    dj.weights.load_torch(target, given, head=None)
    for key, array in dj.weights.to_torch(target).items():
        np.testing.assert_array_equal(array, before[key] + (not key.startswith(head)))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "these weights: the classifier stays new: " in record.getMessage()
    assert f"{head}bias" in record.getMessage()


def test_a_head_that_fits_is_loaded(caplog):
    target = model()
    given = {key: array + 1 for key, array in dj.weights.to_torch(target).items()}
    dj.weights.load_torch(target, given, head=None)
    for key, array in dj.weights.to_torch(target).items():
        np.testing.assert_array_equal(array, given[key])
    assert not caplog.records


def test_other_unexpected_names_are_refused_with_a_new_head():
    target = model()
    given = dj.weights.to_torch(target) | {"decoder.weight": np.ones(3)}
    with pytest.raises(dj.InputError, match=r"unexpected decoder\.weight \(3,\)"):
        dj.weights.load_torch(target, given, head=None)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_values_that_are_not_finite_are_refused(value, dtype):
    target = model()
    before = dj.weights.to_torch(target)
    given = {key: array.astype(dtype) for key, array in before.items()}
    wrong = ["features.norm5.running_var", "classifier.weight"]
    for name in wrong:
        given[name] = np.array(given[name])
        given[name].flat[-1] = value
    with pytest.raises(
        dj.InputError, match=r"NaN or infinite values in 2 of \d+ arrays, "
    ) as caught:
        dj.weights.load_torch(target, given)
    assert all(name in str(caught.value) for name in wrong)
    assert str(caught.value).endswith(": use an earlier checkpoint")
    for key, array in dj.weights.to_torch(target).items():
        np.testing.assert_array_equal(array, before[key])


def test_all_nan_is_refused_but_not_in_a_head_that_is_left_out():
    target = model()
    given = {key: np.full_like(a, np.nan) for key, a in dj.weights.to_torch(target).items()}
    with pytest.raises(
        dj.InputError, match=f"in {len(given)} of {len(given)} arrays, .* more: use"
    ):
        dj.weights.load_torch(target, given)
    given = dj.weights.to_torch(target) | {"classifier.bias": np.full(10, np.nan)}
    dj.weights.load_torch(target, given, head=False)


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
    "name",
    ["densenet121", "densenet169", "densenet201", "densenet161", "densenetblur121d", "resnet50",
     "rdnet_tiny"],
)  # fmt: skip
def test_timms_networks_give_the_same(name, float64):
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model(name, pretrained=False).double().eval()
    for array in theirs.state_dict().values():
        if array.dtype == torch.float64 and array.ndim == 1:  # Norms and biases, far from 0.
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


def test_arrays_are_written_by_safetensors_as_they_are(tmp_path):
    """safetensors ignores strides and would write a transposed view in another order."""
    arrays = dj.weights.to_torch(model(0))
    save_file(arrays, tmp_path / "weights.safetensors")
    for name, array in load_file(tmp_path / "weights.safetensors").items():
        np.testing.assert_array_equal(array, arrays[name])
