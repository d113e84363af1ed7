"""Prediction from Python and from the command line."""

import json
import re

import jax
import numpy as np
import pytest
import small
from flax import nnx
from PIL import Image
from safetensors.numpy import save_file
from sklearn.datasets import load_digits, load_sample_images

import densenet_jax as dj
from densenet_jax import weight_files
from densenet_jax.data.pictures import CentralCrop, Preprocessing
from densenet_jax.predict import logits
from densenet_jax.train import saved_network
from launch import command
from launch import predict as launch_predict

NAME = small.CLASSIFIER
SMALL = Preprocessing(CentralCrop(40, 32))


@pytest.fixture
def photographs(tmp_path):
    """Returns two real photographs of 640 x 427 pixels."""
    paths = [tmp_path / "china.jpg", tmp_path / "deeper" / "flower.png"]
    paths[1].parent.mkdir()
    for path, pixels in zip(paths, load_sample_images().images, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


@pytest.mark.slow
def test_probabilities_are_those_of_the_network(network, photographs):
    (found,) = dj.predict(network, photographs[:1], preprocessing=SMALL)
    picture = Image.open(photographs[0]).resize(
        (int(40 * 640 / 427), 40), Image.Resampling.BILINEAR
    )
    left = round((picture.width - 32) / 2)
    pixels = np.asarray(picture.crop((left, 4, left + 32, 36)), np.float32)
    images = (pixels - np.float32(SMALL.mean)) / np.float32(SMALL.std)
    scores = np.asarray(jax.nn.softmax(network(images[None]))[0])
    order = np.argsort(-scores)[:5]
    assert [p.label for p in found] == order.tolist()
    np.testing.assert_allclose([p.probability for p in found], scores[order], rtol=1e-5)


def test_a_picture_may_be_a_file_a_picture_or_an_array(network, photographs):
    picture = Image.open(photographs[1])
    forms = [str(photographs[1]), photographs[1], picture, np.asarray(picture)]
    found = list(dj.predict(network, forms, preprocessing=SMALL))
    assert len(found) == 4 and all(form == found[0] for form in found)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_change_nothing(network, photographs, batch_size):
    pictures = [photographs[i % 2] for i in range(5)]
    found = list(dj.predict(network, pictures, preprocessing=SMALL, batch_size=batch_size))
    for i, predictions in enumerate(found):
        (alone,) = dj.predict(network, pictures[i : i + 1], preprocessing=SMALL)
        assert [p.label for p in predictions] == [p.label for p in alone]
        for one, other in zip(predictions, alone, strict=True):
            assert one.probability == pytest.approx(other.probability, rel=1e-5)


def test_a_picture_that_cannot_be_read(network, photographs, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photographs[0].read_bytes()[:5000])
    with pytest.raises(dj.InputError, match=f"{broken} is damaged"):
        list(dj.predict(network, [broken], preprocessing=SMALL))
    reported = []
    pictures = [photographs[0], broken, photographs[1]]
    found = list(
        dj.predict(
            network,
            pictures,
            preprocessing=SMALL,
            on_error=lambda i, e: reported.append((i, str(e))),
        )
    )
    assert found[1] is None and found[0] and found[2]
    assert [number for number, _ in reported] == [1] and str(broken) in reported[0][1]


def test_grey_networks_see_grey_pictures(photographs):
    grey = dj.create_model(NAME, in_channels=1, num_classes=3, rngs=nnx.Rngs(0))
    preprocessing = Preprocessing(CentralCrop(32, 32), (128.0,), (64.0,))
    (found,) = dj.predict(
        grey, photographs[:1], preprocessing=preprocessing, classes=["a", "b", "c"]
    )
    assert sorted(p.name for p in found) == ["a", "b", "c"]
    assert sum(p.probability for p in found) == pytest.approx(1, rel=1e-5)


def test_class_names_are_imagenets(network, photographs):
    (found,) = dj.predict(network, photographs[:1], preprocessing=SMALL, top=1000)
    names = {p.label: p.name for p in found}
    assert len(set(names.values())) == 1000
    assert (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")


def test_mean_and_deviation_are_flags(capsys, weights, photographs, network, caplog):
    argv = [photographs[0], "--json", "--top=1"]
    status, output, _ = run(capsys, *argv, weights=weights)
    assert status == 0 and "assumed that --interpolation is bilinear, --mean is" in caplog.text
    status, changed, _ = run(capsys, *argv, "--std", "1", "2", "3", "--mean", "4", "5", "6",
                             weights=weights)  # fmt: skip
    preprocessing = Preprocessing(CentralCrop(40, 32), (4.0, 5.0, 6.0), (1.0, 2.0, 3.0))
    (expected,) = dj.predict(network, photographs[:1], preprocessing=preprocessing, top=1)
    (entry,) = json.loads(changed)
    assert status == 0 and changed != output
    (found,) = entry["predictions"]
    assert found["label"] == expected[0].label
    assert found["probability"] == pytest.approx(expected[0].probability, rel=1e-5)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(640, 427), (427, 640), (300, 300), (257, 1000), (33, 35)])
def test_crops_are_torchvisions(size, interpolation):
    transforms = pytest.importorskip("torchvision.transforms")
    picture = Image.fromarray(load_sample_images().images[0]).resize(size)
    mode = transforms.InterpolationMode(interpolation)
    expected = transforms.CenterCrop(224)(transforms.Resize(256, mode)(picture))
    crop = CentralCrop(256, 224, interpolation)
    np.testing.assert_array_equal(crop(picture), np.asarray(expected))
    ten = transforms.TenCrop(224)(transforms.Resize(256, mode)(picture))
    np.testing.assert_array_equal(crop.ten(picture), np.stack(ten))


def test_two_crops_are_the_picture_and_its_mirror_image(network):
    picture = np.asarray(load_sample_images().images[0][100:132, 200:232])
    options = dict(preprocessing=Preprocessing(CentralCrop(32, 32)), batch_size=2)
    plain, mirrored = logits(network, [picture, picture[:, ::-1]], **options)
    [both] = logits(network, [picture], crops=2, **options)
    np.testing.assert_allclose(both, (plain + mirrored) / 2, atol=1e-5)
    assert np.abs(plain - mirrored).max() > 1e-3, "the test needs a picture without symmetry"


def run(capsys, *arguments, weights=None, model=NAME):
    argv = [*map(str, arguments), "--model", model, "--compile_cache=off", "--num_classes=1000"]
    argv += ["--weights", str(weights), "--resize=40", "--crop=32"]
    return command.run(launch_predict.main, argv), *capsys.readouterr()


def test_a_directory_and_a_glob(capsys, weights, photographs, tmp_path, network, caplog):
    (tmp_path / "notes.txt").write_text("no picture")
    for name in ("folder.jpg", ".ipynb_checkpoints", "__MACOSX"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "._china.jpg").write_bytes(b"no picture")
    status, output, errors = run(capsys, tmp_path, "--json", "--top=2", weights=weights)
    assert (status, errors) == (0, "")
    assert f"{tmp_path}: skipped files: 1 .txt, 3 hidden or system" in caplog.text
    found = json.loads(output)
    assert [entry["image"] for entry in found] == list(map(str, photographs))
    expected = list(dj.predict(network, photographs, preprocessing=SMALL, top=2))
    for entry, predictions in zip(found, expected, strict=True):
        assert [list(p) for p in entry["predictions"]] == [["label", "name", "probability"]] * 2
        assert [p["label"] for p in entry["predictions"]] == [p.label for p in predictions]
    status, output, _ = run(capsys, tmp_path / "*" / "*.png", "--top=1", weights=weights)
    assert status == 0
    assert re.fullmatch(rf"{photographs[1]}\n +\d\.\d\d%  [\w ]+\n", output)
    # A pattern may match a directory.
    status, output, _ = run(capsys, tmp_path / "deep*", "--top=1", weights=weights)
    assert status == 0 and output.startswith(f"{photographs[1]}\n")


def test_paths_begin_in_the_home_directory(capsys, weights, photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "weights.safetensors").symlink_to(weights)
    argv = ["~/china.jpg", "~/deep*", "--top=1", "--plot=~/plot.svg"]
    status, output, errors = run(capsys, *argv, weights="~/weights.safetensors")
    assert status == 0, errors
    assert all(str(path) in output for path in photographs) and (tmp_path / "plot.svg").is_file()


def test_broken_pictures_are_skipped(capsys, weights, photographs, tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.new("1", (200_000, 1)).save(tmp_path / "wide.png")
    status, output, errors = run(capsys, tmp_path, weights=weights)
    assert status == 0 and output.count(".jpg") == 1
    empty, wide = errors.splitlines()
    assert empty.startswith(f"skipped: {tmp_path / 'empty.jpg'}")
    assert wide.startswith(f"skipped: {tmp_path / 'wide.png'} has 200000 x 1 pixels, which would")
    status, output, errors = run(capsys, tmp_path / "empty.jpg", weights=weights)
    assert status == 2 and errors.endswith(
        "error: none of the pictures can be read: check their format\n"
    )


def test_the_plot_is_a_picture(capsys, weights, photographs, tmp_path):
    plot = tmp_path / "plot.png"
    photographs[0] = photographs[0].rename(tmp_path / "price$5^$.jpg")
    assert run(capsys, *photographs, f"--plot={plot}", weights=weights)[0] == 0
    with Image.open(plot) as picture:
        assert picture.format == "PNG" and min(picture.size) > 300


def test_a_run_knows_its_network(capsys, finished_run, tmp_path):
    """The pictures are handwritten digits in colour files."""
    digits = load_digits()
    paths = []
    for i, image in enumerate(digits.images[::5][:20]):
        paths.append(tmp_path / f"{i:02}.png")
        picture = Image.fromarray((image * 255 / 16).round().astype(np.uint8))
        picture.convert("RGB").save(paths[-1])
    argv = [*map(str, paths), "--weights", str(finished_run), "--compile_cache=off", "--json"]
    assert command.run(launch_predict.main, argv) == 0
    found = json.loads(capsys.readouterr().out)
    model, _ = saved_network.load_network(finished_run)
    images = (digits.images[::5][:20, ..., None] - 4.88) / 6.02
    scores = np.asarray(jax.nn.softmax(model(images.astype(np.float32))))
    for entry, expected in zip(found, scores, strict=True):
        for prediction in entry["predictions"]:
            # Rounding 16 greys to 255 changes the pixels slightly.
            assert prediction["probability"] == pytest.approx(
                expected[prediction["label"]], rel=0.05
            )
    assert command.run(launch_predict.main, [*argv, "--model", NAME]) == 2
    assert "records its model: leave out model" in capsys.readouterr().err


def damaged(arrays, kind):
    if kind == "one missing":
        return {k: v for k, v in arrays.items() if k != "features.norm5.bias"}
    return arrays | {"classifier.weight": arrays["classifier.weight"][:10]}


@pytest.mark.parametrize(
    "kind, words",
    [
        ("one missing", r"missing features.norm5.bias \("),
        ("of other classes", r"classifier.weight has shape \(10, .*instead of \(1000, "),
        ("empty", "holds no weights that can be read"),
        ("not there", "there is no weights file"),
    ],
)
def test_wrong_weights(capsys, weights, photographs, tmp_path, kind, words):
    path = tmp_path / "other.safetensors"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind != "not there":
        arrays = damaged(weight_files.read(weights), kind)
        save_file({k: np.ascontiguousarray(a) for k, a in arrays.items()}, path)
    status, output, errors = run(capsys, *photographs, weights=path)
    assert status == 2 and output == "" and errors.count("\n") == 1
    assert re.search(words, errors)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nowhere.jpg"], "there is no picture 'nowhere.jpg'"),
        (["--top=0"], "--top is 0"),
        (["--crop=64"], "the crop has 64 pixels"),
        (["--crop=32", "--max_pixels=0"], "max_pixels is 0"),
        (["--crop=32", "--mean=1"], "the mean of the 3 channels is (1.0,): set --mean"),
        (["--crop=32", "--std", "1", "0", "1"], "set --std to a number for each channel, above 0"),
        (["--crop=32", "--std", "nan", "1", "1"], "set --std to a number for each channel"),
        (["--crop=32", "--plot=a.xyz"], "--plot is a.xyz: it must end in .png"),
        (["--crop=32", "--plot=nowhere/a.png"], "--plot is in nowhere, which is not a directory"),
        (["--crop=32", ""], "there is no picture ''"),
        ([], "the preprocessing of"),
    ],
)
def test_mistakes(capsys, weights, photographs, arguments, words):
    argv = [str(photographs[0]), "--model", NAME, "--weights", str(weights), "--resize=40"]
    argv += ["--num_classes=1000", "--compile_cache=off", *arguments]
    assert command.run(launch_predict.main, argv) == 2
    assert words in capsys.readouterr().err


def test_a_directory_without_pictures(capsys, weights, tmp_path):
    (tmp_path / "empty").mkdir()
    status, _, errors = run(capsys, tmp_path / "empty", weights=weights)
    assert status == 2 and "contains no pictures" in errors
