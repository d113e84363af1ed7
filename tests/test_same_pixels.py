"""Tests that training, evaluation and prediction see the same pixels of a picture."""

import itertools
import json
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import small
from cases import slow_except
from flax import nnx
from PIL import Image, ImageSequence

import densenet_jax as dj
from densenet_jax.data.pictures import CentralCrop, Preprocessing
from densenet_jax.train import saved_network
from densenet_jax.train.fit import fit
from launch import command, evaluate
from launch import predict as launch_predict

SIDE = 16
ENDINGS = [".jpg", ".png", ".webp", ".tif"]
CLASSES = ["across", "upright"]  # Which way the stripes of the decoded pixels run.
RUN = {
    **{"epochs": 3, "batch_size": 8, "eval_batch_size": 8, "learning_rate": 0.1},
    **{"model.growth_rate": 8, "model.dropout_rate": 0.0},
    **{"data.name": "folder", "data.holdout": 0, "data.augment": False, "data.image_size": SIDE},
}


def striped(name, random):
    """Returns an image of noisy stripes, across or upright."""
    stripes = np.where(np.arange(SIDE) // 2 % 2, 40, 200)
    pixels = stripes[:, None] + random.integers(-30, 31, (SIDE, SIDE))
    return np.repeat((pixels if name == "across" else pixels.T)[..., None], 3, 2).astype(np.uint8)


def save(pixels, path, orientation):
    """Saves a picture that Pillow, which applies the orientation of TIFFs, decodes to `pixels`."""
    picture = Image.fromarray(pixels)
    if path.suffix == ".tif" and orientation >= 5:
        picture = picture.transpose(Image.Transpose.TRANSPOSE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, exif=exif)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Writes training and test pictures of all orientations and formats."""
    random, directory = np.random.default_rng(0), tmp_path_factory.mktemp("stripes")
    for part in ("train", "val"):
        for name in CLASSES:
            for orientation in range(1, 9):
                for ending in ENDINGS:
                    path = directory / part / name / f"{orientation}{ending}"
                    save(striped(name, random), path, orientation)
    return directory


@pytest.fixture(scope="module")
def run(directory, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    fit(small.config(RUN | {"data.directory": str(directory)}), workdir)
    return workdir


def test_both_ways_of_evaluation_agree(run, directory, capsys):
    assert command.run(evaluate.main, ["--workdir", str(run), "--compile_cache=off", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test_error"] == 0
    argv = ["--weights", str(run), "--pictures", str(directory), "--json", "--compile_cache=off"]
    assert command.run(evaluate.main, argv) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["pictures"], report["broken"], report["top1_error"]) == (64, 0, 0)


def test_paths_pictures_and_arrays_have_the_same_predictions(run, directory, capsys):
    paths = sorted((directory / "val").rglob("*.*"))
    argv = [str(directory / "val"), "--weights", str(run), "--json", "--compile_cache=off"]
    assert command.run(launch_predict.main, argv) == 0
    found = [entry["predictions"] for entry in json.loads(capsys.readouterr().out)]
    assert [predictions[0]["name"] for predictions in found] == [path.parent.name for path in paths]
    model, _ = saved_network.load_network(run)
    look = dict(preprocessing=Preprocessing(CentralCrop(SIDE, SIDE, "bicubic")), classes=CLASSES)
    for forms in (paths, opened(paths), map(np.asarray, opened(paths))):
        again = [[p._asdict() for p in some] for some in dj.predict(model, forms, **look)]
        assert again == found


def opened(paths):
    """Yields PIL pictures, and closes each picture before the next."""
    for path in paths:
        with Image.open(path) as picture:
            yield picture


def files():
    """Yields an ending, a picture and options to save it, for every mode and depth."""
    y, x = np.mgrid[:48, :48].astype(np.uint8)
    color = Image.fromarray(np.stack([5 * x, 5 * y, 2 * x + 2 * y], axis=-1))
    grey, transparent = color.convert("L"), color.copy()
    transparent.putalpha(grey)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    yield from ((ending, color, {}) for ending in (".jpg", ".bmp", ".gif", ".ppm", ".tga", ".jp2"))
    yield from ((ending, grey, {}) for ending in (".jpg", ".png", ".webp", ".tif", ".pgm"))
    yield from ((ending, deep, {}) for ending in (".png", ".tif", ".jp2"))
    yield from ((ending, transparent, {}) for ending in (".png", ".webp", ".tif"))
    yield ".jpg", color.convert("CMYK"), {}
    yield ".png", transparent.convert("LA"), {}
    yield ".png", color.quantize(64), {}
    yield ".png", color.quantize(64), {"transparency": bytes(range(64))}
    yield ".png", color.convert("1"), {}
    yield ".jpg", color, {"progressive": True, "quality": 95}


@pytest.mark.parametrize("mode", slow_except(["RGB"], ["RGB", "L"]))
def test_all_modes_are_equal_as_paths_pictures_and_arrays(tmp_path, mode):
    paths = []
    for i, (ending, picture, options) in enumerate(files()):
        paths.append(tmp_path / f"{i:02}{ending}")
        picture.save(paths[-1], **options)
    assert len(paths) > 20
    direct = ("RGB", "L", "I;16")
    arrays = [np.asarray(p if p.mode in direct else p.convert("RGBA")) for p in opened(paths)]
    arrays = [array[..., None] if array.ndim == 2 else array for array in arrays]
    channels = {"RGB": {}, "L": {"in_channels": 1}}[mode]
    network = dj.create_model(small.CLASSIFIER, num_classes=9, rngs=nnx.Rngs(0), **channels)
    preprocessing = Preprocessing(CentralCrop(40, 32), *[(99.0,) * len(mode)] * 2)
    found = [
        [list(dj.predict(network, [form], preprocessing=preprocessing)) for form in forms]
        for forms in (paths, opened(paths), arrays)
    ]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    "picture, words",
    [
        (np.full((40, 40, 3), 16.0), "float64 array with values from 16 to 16: scale floats to"),
        (np.full((40, 40, 3), np.nan), "float64 array with values from nan to nan"),
        (np.zeros((40, 40, 3), np.int32), "int32 array of shape (40, 40, 3): give uint8"),
        (np.zeros((40, 40, 2), np.uint8), "uint8 array of shape (40, 40, 2)"),
        (np.zeros((0, 40), np.uint8), "uint8 array of shape (0, 40)"),
        (np.zeros((1, 40, 40, 3), np.uint8), "uint8 array of shape (1, 40, 40, 3)"),
        (None, "object array of shape ()"),
        (Image.fromarray(np.zeros((40, 40), np.float32)), "picture 0 has floating-point pixels"),
    ],
)
def test_other_arrays_are_refused(network, picture, words):
    with pytest.raises(dj.InputError) as caught:
        list(dj.predict(network, [picture]))
    assert str(caught.value).startswith("picture 0 ") and words in str(caught.value)


def test_one_picture_and_a_directory(network, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    path = tmp_path / "a" / "picture.png"
    path.parent.mkdir()
    Image.fromarray(pixels).save(path)
    look = dict(preprocessing=Preprocessing(CentralCrop(32, 32)), batch_size=1)
    [expected] = dj.predict(network, [pixels], **look)
    forms = [path, str(path), Image.open(path), pixels, jnp.asarray(pixels), pixels / 255]
    assert all(dj.predict(network, form, **look) == expected for form in forms)
    assert dj.predict(network, tmp_path, **look) == {path: expected}
    assert list(dj.predict(network, pixels[None], **look)) == [expected]  # An array of pictures.


def test_frames_of_one_picture_are_different_pictures(network, tmp_path):
    """PIL's iterator yields the same object for every frame, with other pixels."""
    frames = [Image.new("RGB", (40, 40), color) for color in ("red", "green", "blue", "white")]
    frames[0].save(tmp_path / "frames.tif", save_all=True, append_images=frames[1:])
    look = dict(preprocessing=Preprocessing(CentralCrop(32, 32)))
    with Image.open(tmp_path / "frames.tif") as picture:
        found = list(dj.predict(network, ImageSequence.Iterator(picture), **look))
    assert found == list(dj.predict(network, frames, **look))


@pytest.mark.parametrize(
    "pictures, options, words",
    [
        ("nowhere.jpg", {}, "nowhere.jpg"),
        (np.zeros((4, 4, 2), np.uint8), {}, "array of shape"),
        (None, {}, "pictures is None: give a list of pictures"),
        (3, {}, "pictures is 3: give a list of pictures"),
        ("", {}, "is a directory, not a regular file"),
        ("x" * 5000, {}, "cannot read"),
        ("https://a.b/c.jpg", {}, "'https://a.b/c.jpg' is a URL: download the picture first"),
        ([], {"batch_size": 0}, "batch_size is 0"),
        ([], {"batch_size": 2.5}, "batch_size is 2.5: it must be a whole number"),
        ([], {"max_pixels": None}, "max_pixels is None"),
        ([], {"top": 0}, "top is 0"),
        ([], {"top": "3"}, "top is '3'"),
        ([], {"classes": ["one"]}, "give a list with each of 1000 names"),
        ([], {"classes": []}, "give a list with each of 1000 names"),
        ([], {"classes": {"one"}}, "give a list with each of 1000 names"),
        ([], {"preprocessing": "x"}, "the preprocessing for 3 channels is not known"),
        ([], {"preprocessing": Preprocessing(mean=(1.0,), std=(1.0,))}, "for 3 channels is not"),
    ],
)
def test_other_mistakes_in_calls(network, pictures, options, words):
    with pytest.raises(dj.InputError, match=words):
        list(dj.predict(network, pictures, **options))


def test_classes_that_differ_from_the_runs_are_refused(run, directory, tmp_path, capsys):
    """Labels of another directory would denote other classes, and replace the run's names."""
    for part, name in itertools.product(("train", "val"), CLASSES):
        shutil.copytree(directory / part / name, tmp_path / "data" / part / name[::-1])
    data_directory = str(tmp_path / "data")
    argv = ["--workdir", str(run), f"--data_directory={data_directory}", "--compile_cache=off"]
    assert command.run(evaluate.main, argv) == 2
    words = "the data have the classes ssorca, thgirpu (2), but"
    assert words in capsys.readouterr().err
    again = shutil.copytree(run, tmp_path / "run")
    (again / "result.json").unlink()
    before = small.snapshot(again)
    with pytest.raises(dj.InputError, match=re.escape(words)):
        fit(small.config(RUN | {"data.directory": data_directory}), again)
    assert small.snapshot(again) == before
