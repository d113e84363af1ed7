"""Prefixes, classifiers of other names, and first convolutions for other input channels."""

import functools

import numpy as np
import pytest
from flax import nnx

import densenet_jax as dj
from densenet_jax import weight_fitting
from densenet_jax.train import saved_network

FAMILIES = {
    "densenet": ("densenet_bc_k4_d10", {}, "classifier.", "features.conv0.weight"),
    "resnet": ("resnet50", dict(block_config=(2, 2), widths=(8, 16)), "fc.", "conv1.weight"),
    "rdnet": (
        "rdnet_tiny",
        dict(stage_growth_rates=(8, 8, 8), downsampling=(1,)),
        *("head.fc.", "stem.0.weight"),
    ),
}


def create(family="densenet", **overrides):
    name, defaults, *_ = FAMILIES[family]
    return dj.create_model(name, rngs=nnx.Rngs(0), **defaults | overrides)


@functools.cache
def random_arrays(family="densenet", **overrides):
    """Returns arrays for a network of the family, none of which equals those of `create`."""
    rng = np.random.default_rng(0)
    return {
        name: rng.uniform(0.5, 1.5, array.shape).astype(np.float32)
        for name, array in dj.weights.to_torch(create(family, **overrides)).items()
    }


def assert_loaded(model, arrays):
    for name, array in dj.weights.to_torch(model).items():
        np.testing.assert_array_equal(array, arrays[name])


PREFIXES = ["module.", "model.", "net.", "backbone.", "module.densenet121."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_logged(prefix, tmp_path, caplog):
    arrays, model = random_arrays(), create()
    path = tmp_path / "a.safetensors"
    dj.weight_files.write(path, {prefix + name: array for name, array in arrays.items()})
    dj.weights.load_torch(model, path)
    assert_loaded(model, arrays)
    assert caplog.messages == [
        f"the weights in {path}: all names begin with {prefix!r}, which was removed"
    ]


def test_a_prefix_of_some_names_is_logged(caplog):
    arrays = random_arrays()
    names = {name: name if name.startswith("cl") else f"encoder.{name}" for name in arrays}
    dj.weights.load_torch(create(), {names[name]: array for name, array in arrays.items()})
    count = len(arrays)
    assert caplog.messages == [
        f"these weights: {count - 2} of {count} names begin with 'encoder.', which was removed"
    ]


@pytest.mark.parametrize("family", ["densenet", "resnet"])
def test_nothing_is_logged_without_a_prefix(family, caplog):
    """`backbone.` belongs to the names of mmpretrain."""
    arrays, model = random_arrays(family), create(family)
    dj.weights.load_torch(model, arrays)
    if family == "resnet":
        renamed = {
            name.replace("fc.", "head.fc.") if name.startswith("fc.") else f"backbone.{name}": array
            for name, array in arrays.items()
        }
        dj.weights.load_torch(model, renamed)
    assert_loaded(model, arrays)
    assert caplog.messages == []


HEADS = [
    *("classifier.0", "classifier.1", "class_layers.out", "head.fc", "fc", "fc.1", "last_linear"),
    *("head", "linear", "densenet.out"),
]


def with_head(arrays, head, layer, prefix=""):
    """Returns the arrays with the classifier under the name `layer`."""
    return {
        prefix + (name.replace(head, f"{layer}.") if name.startswith(head) else name): array
        for name, array in arrays.items()
    }


@pytest.mark.parametrize(
    "layer, family, prefix",
    [
        *((layer, "densenet", prefix) for layer in HEADS for prefix in ("", "module.densenet121.")),
        *(("fc.1", family, "model.") for family in FAMILIES),
        *(("last_linear", family, "") for family in FAMILIES),
        ("head", "rdnet", ""),  # Beside head.norm.
    ],
)
def test_a_classifier_of_another_name(layer, family, prefix, caplog):
    head = FAMILIES[family][2]
    arrays, model = random_arrays(family), create(family)
    renamed = with_head(arrays, head, layer, prefix)
    for allowed in (True, None):
        dj.weights.load_torch(model, renamed, head=allowed)
        assert_loaded(model, arrays)
    known = {"densenet": ["head.fc", "class_layers.out"], "resnet": ["fc", "head.fc"]}
    is_known = layer in known.get(family, ["head.fc"])
    words = f"these weights: {layer} was taken for the classifier"
    assert (words in caplog.messages) != is_known


@pytest.mark.parametrize("layer", ["classifier.0", "class_layers.out", "linear"])
def test_a_classifier_of_another_name_with_other_classes(layer, caplog):
    arrays, model = with_head(random_arrays(num_classes=7), "classifier.", layer), create()
    new = dj.weights.to_torch(model)
    words = r"classifier\.bias has shape \(7,\) instead of \(10,\).* its num_classes to fit"
    with pytest.raises(dj.InputError, match=words):
        dj.weights.load_torch(model, arrays)
    dj.weights.load_torch(model, arrays, head=None)
    assert_loaded(model, random_arrays(num_classes=7) | {k: new[k] for k in new if "class" in k})
    [message] = caplog.messages
    assert "the classifier stays new: classifier.bias has shape (7,) instead of (10,)" in message


@pytest.mark.parametrize(
    "extra",
    [
        {"classifier.0.weight": np.ones((5, 5)), "classifier.2.weight": np.ones((10, 5))},
        {"classifier.1.running_mean": np.ones(5)},
        {"projection.weight": np.ones((10, 5), np.float32)},
        {"norm.weight": np.ones(5)},
    ],
)
def test_layers_that_are_no_classifier(extra):
    arrays = {k: array for k, array in random_arrays().items() if not k.startswith("classifier.")}
    name = next(iter(extra))
    with pytest.raises(dj.InputError, match=rf"missing classifier\..*unexpected {name}"):
        dj.weights.load_torch(create(), arrays | extra)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stored, channels", [(3, 1), (3, 2), (3, 4), (3, 7), (1, 3), (1, 4)])
def test_input_channels(family, stored, channels, caplog):
    stem = FAMILIES[family][3]
    arrays = random_arrays(family, in_channels=stored)
    model = create(family, in_channels=channels)
    dj.weights.load_torch(model, arrays)
    found = dj.weights.to_torch(model)
    kernel = arrays[stem]
    if channels == 1:
        expected = kernel.sum(1, keepdims=True)
    else:
        expected = np.stack([kernel[:, i % stored] for i in range(channels)], 1)
        expected = expected * np.float32(stored / channels)
    np.testing.assert_allclose(found[stem], expected, rtol=1e-6)
    assert_loaded(model, arrays | {stem: found[stem]})
    [message] = caplog.messages
    number = "1 input channel" if stored == 1 else "3 input channels"
    assert message.startswith(f"these weights: {stem} has {number} instead of {channels}: the")


def test_grey_pictures_give_the_logits_of_their_rgb_copies():
    arrays, model = random_arrays(), create(in_channels=1)
    rgb = create()
    dj.weights.load_torch(model, arrays)
    dj.weights.load_torch(rgb, arrays)
    pictures = np.random.default_rng(0).random((2, 32, 32, 1), np.float32)
    copies = pictures.repeat(3, -1)
    expected = rgb(copies, train=False)
    np.testing.assert_allclose(model(pictures, train=False), expected, rtol=1e-4)
    back = create()  # One channel to three.
    dj.weights.load_torch(back, dj.weights.to_torch(model))
    np.testing.assert_allclose(back(copies, train=False), expected, rtol=1e-4)


def test_a_run_starts_from_a_network_for_other_pictures_and_classes(tmp_path, caplog):
    """`init_from` names a file of RGB weights with a prefix; the run reads grey pictures."""
    arrays, model = random_arrays(num_classes=7), create(in_channels=1)
    new, path = dj.weights.to_torch(model), tmp_path / "a.safetensors"
    dj.weight_files.write(path, with_head(arrays, "classifier.", "classifier.1", "module."))
    saved_network.start_from(model, str(path))
    summed = {"features.conv0.weight": arrays["features.conv0.weight"].sum(1, keepdims=True)}
    assert_loaded(model, arrays | summed | {k: new[k] for k in new if k.startswith("classifier.")})
    prefix, head, stem = caplog.messages
    assert prefix.endswith("all names begin with 'module.', which was removed")
    assert "the classifier stays new: classifier.bias has shape (7,)" in head
    assert stem.endswith("has 3 input channels instead of 1: the kernels were summed")


@pytest.mark.parametrize("stored, channels", [(4, 3), (2, 3), (4, 1)])
def test_input_channels_without_a_common_meaning(stored, channels):
    model = create(in_channels=channels)
    with pytest.raises(dj.InputError, match=rf"has shape \(8, {stored}, 3, 3\) instead of \(8, "):
        dj.weights.load_torch(model, random_arrays(in_channels=stored))


def test_other_differences_beside_input_channels_are_refused(caplog):
    arrays, model = random_arrays(), create(in_channels=1)
    before = dj.weights.to_torch(model)
    with pytest.raises(dj.InputError, match=r"missing features\.norm5\.bias \(\d+,\): choose"):
        dj.weights.load_torch(model, {k: arrays[k] for k in arrays if k != "features.norm5.bias"})
    wider = {"features.conv0.weight": np.ones((9, 3, 3, 3), np.float32)}
    with pytest.raises(dj.InputError, match=r"\(9, 3, 3, 3\) instead of \(8, 1, 3, 3\)"):
        dj.weights.load_torch(model, arrays | wider)
    for value in (1e39, 3e38, np.nan):  # Too large for float32, alone or summed.
        not_finite = {"features.conv0.weight": np.full((8, 3, 3, 3), value)}
        with pytest.raises(dj.InputError, match=r"NaN or infinite values in 1 of"):
            dj.weights.load_torch(model, arrays | not_finite)
    integers = {"features.conv0.weight": np.ones((8, 3, 3, 3), int)}
    with pytest.raises(dj.InputError, match="has dtype int64 instead of a float"):
        dj.weights.load_torch(model, arrays | integers)
    assert_loaded(model, before)
    assert caplog.messages == []


@pytest.mark.parametrize("stored, channels", [(3, 1), (3, 2), (3, 4), (3, 6), (3, 7)])
def test_timm_fits_kernels_the_same(stored, channels):
    torch, manipulate = pytest.importorskip("torch"), pytest.importorskip("timm.models._manipulate")
    kernel = np.random.default_rng(0).random((8, stored, 7, 7), np.float32)
    theirs = manipulate.adapt_input_conv(channels, torch.tensor(kernel)).numpy()
    np.testing.assert_allclose(weight_fitting.fit(kernel, channels)[0], theirs, rtol=1e-6)
