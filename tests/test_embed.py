"""Features without classes, class activation maps, and a probe on features."""

import json
import logging

import jax.numpy as jnp
import numpy as np
import pytest
import small
from cases import slow_except
from flax import nnx
from PIL import Image
from safetensors.numpy import save_file

import densenet_jax as dj
from densenet_jax.analysis.activation_maps import class_activation_maps
from densenet_jax.data import sources
from densenet_jax.data.pictures import CentralCrop, Preprocessing
from densenet_jax.errors import InputError
from densenet_jax.predict import logits
from densenet_jax.train.trainer import Trainer
from launch import evaluate, predict, probe

NETWORKS = ["densenet_bc_k4_d10", "resnet14"]


SMALL = Preprocessing(CentralCrop(32, 32, "bilinear"), (127.5,) * 3, (127.5,) * 3)


def network(name=small.CLASSIFIER, **settings):
    return dj.create_model(name, rngs=nnx.Rngs(0), **settings)


def picture(seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)


@pytest.mark.parametrize("name", slow_except(["densenet_bc_k4_d10"], NETWORKS))
def test_a_network_without_classes_returns_the_averages_of_its_last_maps(name):
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 32, 32, 3)), jnp.float32)
    model = network(name)
    *_, last = model.features(images).values()
    features = network(name, num_classes=0)
    assert not hasattr(features.classifier, "kernel")
    dj.weights.load_torch(features, dj.weights.to_torch(model))
    np.testing.assert_allclose(features(images), last.mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_the_classifier_of_a_file_is_left_out_with_a_warning(caplog):
    model = network()
    features = network(num_classes=0)
    with caplog.at_level(logging.WARNING):
        dj.weights.load_torch(features, dj.weights.to_torch(model))
    assert "the network has no classes, so the classifier is left out" in caplog.text
    assert bool((features.conv0.kernel[...] == model.conv0.kernel[...]).all())


def test_embed_returns_what_the_classifier_reads():
    model, pictures = network(num_classes=3), [picture(i) for i in range(3)]
    kernel, bias = model.classifier.kernel[...], model.classifier.bias[...]
    for features, one in zip(dj.embed(model, pictures, preprocessing=SMALL), pictures, strict=True):
        probability = {p.label: p.probability for p in dj.predict(model, one, preprocessing=SMALL)}
        logits = np.asarray(features @ kernel + bias)
        expected = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose([probability[i] for i in range(3)], expected, rtol=1e-4)


@pytest.mark.parametrize("name", slow_except(["densenet_bc_k4_d10"], NETWORKS))
def test_the_mean_of_an_activation_map_and_the_bias_are_the_logit(name):
    model, pictures = network(name), [picture(0), picture(1)]
    found = list(class_activation_maps(model, pictures, preprocessing=SMALL))
    for maps, expected in zip(found, logits(model, pictures, preprocessing=SMALL), strict=True):
        mean = maps.maps.mean((0, 1)) + np.asarray(model.classifier.bias[...])
        np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(maps.logits, expected, rtol=1e-5, atol=1e-5)
        assert maps.image.shape == (32, 32, 3) and maps.image.dtype == np.uint8


@pytest.mark.slow
def test_activation_maps_are_those_of_pytorch_grad_cam():
    """Grad-CAM's map is ours, rectified, scaled to 0 to 1 and enlarged by its own code."""
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    grad_cam = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.manual_seed(0)
    theirs = torchvision.models.densenet121(weights=None).eval()
    ours = network("densenet121")
    dj.weights.load_torch(ours, {k: v.numpy() for k, v in theirs.state_dict().items()})
    size = 96  # Three by three positions.
    crop = Preprocessing(CentralCrop(size, size), SMALL.mean, SMALL.std)
    [found] = class_activation_maps(ours, [picture()], preprocessing=crop)
    pixels = (found.image.astype(np.float32) - 127.5) / 127.5
    images = torch.from_numpy(pixels.transpose(2, 0, 1)[None])
    # torchvision's own ReLU after `norm5` is no module, so it has no hook.
    relu, pool, flatten = torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    hooked = torch.nn.Sequential(theirs.features, relu, pool, flatten, theirs.classifier)
    cam = grad_cam.GradCAM(hooked, [relu])
    for label in (0, 281, 999):
        [expected] = cam(images, targets=[ClassifierOutputTarget(label)])
        rectified = np.maximum(found.maps[..., label], 0)
        assert rectified.max() > 1e-3  # Far above the 1e-7 that Grad-CAM adds to a maximum.
        # Grad-CAM scales again after it has enlarged the map, which lowers the maximum.
        [scaled] = scale_cam_image(scale_cam_image(rectified[None], target_size=(size, size)))
        np.testing.assert_allclose(scaled, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("attempt", "problem"),
    [
        (lambda: network("nin", num_classes=0), "num_classes is 0: it must be at least 1"),
        (lambda: dj.embed(network("nin"), picture()), "has no linear classifier"),
        (lambda: dj.predict(network(num_classes=0), picture()), "no classes to predict: use embed"),
        (lambda: next(class_activation_maps(network("fractalnet21"), [picture()])), "no exact"),
        (lambda: next(class_activation_maps(network(num_classes=0), [picture()])), "no exact"),
        (lambda: Trainer(small.config({"model.num_classes": 0})), "but the model has 0"),
    ],
)
def test_networks_that_cannot_are_refused(attempt, problem):
    with pytest.raises(InputError) as error:
        attempt()
    assert problem in str(error.value)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Returns a directory with 30 zeros and 30 ones of the digits, in class directories."""
    directory, digits = tmp_path_factory.mktemp("digits"), sources.load("digits").train
    for label in (0, 1):
        (directory / str(label)).mkdir()
        for i, index in enumerate(np.flatnonzero(digits.labels == label)[:30]):
            image = Image.fromarray(15 * digits.images[index].squeeze())
            image.resize((16, 16)).save(directory / str(label) / f"{i}.png")
    return directory


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Returns flags for the weights of an untrained network."""
    file = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(dj.weights.to_torch(network()), file)
    flags = ["--weights", file, "--model", small.CLASSIFIER, "--resize", 16, "--crop", 16]
    return [str(word) for word in [*flags, "--mean", 0.5, 0.5, 0.5, "--std", 0.5, 0.5, 0.5]]


def test_the_command_writes_embeddings_and_maps(pictures, weights, tmp_path, capsys):
    paths = sorted((pictures / "0").iterdir())[:3]
    embeddings, maps = tmp_path / "found.npz", tmp_path / "maps.png"
    flags = ["--embeddings", str(embeddings), "--cam", str(maps), "--json"]
    predict.main([*map(str, paths), *weights, *flags])
    output, errors = capsys.readouterr()
    assert len(json.loads(output)) == 3
    assert f"wrote 9 features of 3 pictures to {embeddings}" in errors
    found = np.load(embeddings)
    assert found["paths"].tolist() == [str(path) for path in paths]
    assert found["embeddings"].shape == (3, 9) and found["embeddings"].dtype == np.float32
    with Image.open(maps) as image:
        assert image.width > 500


def test_a_probe_learns_from_untrained_features(pictures, weights, capsys):
    """Random convolutions tell zeros from ones more often than chance, which errs by half."""
    probe.main([str(pictures), *weights, "--json", "--neighbours", "3"])
    report = json.loads(capsys.readouterr().out)
    assert (report["train_pictures"], report["test_pictures"]) == (48, 12)
    assert report["features"] == 9 and report["neighbours"] == 3
    assert report["neighbours_error"] < 35 and report["probe_error"] < 35


def test_impossible_flags_are_refused(pictures, weights, tmp_path):
    picture = pictures / "0" / "0.png"
    (tmp_path / "a.npz").touch()
    for problem, main, flags in (
        ("--neighbours is 100: use 1 to 48", probe.main, ["--neighbours", "100"]),
        ("--embeddings is x.npy: it must end in .npz", predict.main, ["--embeddings", "x.npy"]),
        ("--cam is maps.gif: it must end in", predict.main, ["--cam", "maps.gif"]),
        ("--cam shows one crop", predict.main, ["--cam", "maps.png", "--crops", "10"]),
        ("0.png, which exists: remove it, or name", predict.main, ["--plot", str(picture)]),
        ("a.png, as is --plot: name", predict.main, ["--plot", "a.png", "--cam", "a.png"]),
        ("and there are 120: name at most 100", predict.main, ["--cam", "a.png", str(pictures)]),
        ("a.npz, which exists: remove it", predict.main, ["--embeddings", str(tmp_path / "a.npz")]),
    ):
        with pytest.raises(InputError) as error:
            main([str(pictures), *weights, *flags])
        assert problem in str(error.value)


@pytest.mark.parametrize("flag", ["--json", "--plot=a.png", "--cam=a.png"])
def test_a_network_without_classes_writes_embeddings_alone(pictures, tmp_path, flag):
    file = tmp_path / "model.safetensors"
    save_file(dj.weights.to_torch(network(num_classes=0)), file)
    flags = ["--weights", str(file), "--model", small.CLASSIFIER, "--num_classes=0", "--resize=16"]
    flags += ["--crop=16", "--embeddings", str(tmp_path / "found.npz")]
    with pytest.raises(InputError, match="shows classes, but the network has none"):
        predict.main([str(pictures / "0" / "0.png"), *flags, flag])
    assert not (tmp_path / "found.npz").exists()
    if flag == "--json":
        with pytest.raises(InputError, match="set --embeddings to write its features"):
            predict.main([str(pictures / "0" / "0.png"), *flags[:-2]])
        with pytest.raises(InputError, match="has no classes: name weights with a classifier"):
            evaluate.main(["--pictures", str(pictures), *flags[:-2]])
        predict.main([str(pictures / "0" / "0.png"), *flags])
        assert np.load(tmp_path / "found.npz")["embeddings"].shape == (1, 9)
