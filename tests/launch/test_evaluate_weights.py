"""`python -m launch.evaluate --weights FILE --pictures DIR`: errors on folders of pictures."""

import json

import numpy as np
import pytest
import small
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from densenet_jax.data import folders, imagenet
from densenet_jax.data.pictures import CentralCrop
from densenet_jax.errors import InputError
from densenet_jax.predict import Preprocessing, logits
from densenet_jax.train import trained
from launch import command, evaluate

NAME = small.CLASSIFIER
FLAGS = ["--resize=40", "--crop=32", "--compile_cache=off"]
# How many classes score more than the right one of each picture.
RANKS = [0, 0, 3, 4, 5, 500]


def pictures():
    """Parts of two photographs."""
    for photograph in load_sample_images().images:
        for left in (0, 150, 300):
            yield Image.fromarray(photograph[50:350, left : left + 340])


@pytest.fixture(params=[1, 10])
def folder(request, network, tmp_path):
    """Pictures in folders of classes such that the ranks of the right ones are known; and crops."""
    crops = request.param
    options = dict(preprocessing=Preprocessing(CentralCrop(40, 32)), crops=crops)
    for i, (picture, rank) in enumerate(zip(pictures(), RANKS, strict=True)):
        (scores,) = logits(network, [picture], **options)
        label = np.argsort(-scores)[rank]
        path = tmp_path / list(imagenet.classes())[label] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        picture.save(path)
    return tmp_path, crops


def run(capsys, weights, folder, *arguments):
    argv = ["--weights", str(weights), "--pictures", str(folder), *arguments]
    return command.run(evaluate.main, argv + FLAGS), *capsys.readouterr()


def test_errors_are_counted(capsys, weights, folder):
    path, crops = folder
    flags = [f"--model={NAME}", f"--crops={crops}", "--json", "--batch_size=4"]
    status, output, errors = run(capsys, weights, path, *flags)
    assert status == 0, errors
    report = json.loads(output)
    assert (report["pictures"], report["broken"], report["crops"]) == (6, 0, crops)
    assert report["top1_error"] == pytest.approx(100 * 4 / 6)
    assert report["top5_error"] == pytest.approx(100 * 2 / 6)


@pytest.mark.parametrize("folder", [1], indirect=True)
def test_broken_pictures_do_not_count(capsys, weights, folder):
    path, _ = folder
    next(path.iterdir()).joinpath("broken.jpg").write_bytes(b"\xff\xd8\xff")
    status, output, errors = run(capsys, weights, path, f"--model={NAME}")
    assert status == 0 and errors.count("skipped: ") == 1
    assert "6 pictures of 6 classes, 1 unreadable skipped; 1 crop of 32 pixels" in output
    assert "after resizing to 40 (bilinear); labels: ImageNet's identifiers" in output
    assert "66.67  33.33" in output and "published" not in output


@pytest.mark.parametrize(
    "crops, expected",
    [
        (1, ["25.02   7.71", "torchvision", "25.57   8.03", "mmpretrain", "25.04   7.79"]),
        (10, ["23.61   6.66"]),
    ],
)
def test_published_errors_are_beside(crops, expected):
    report = dict(weights="w.pth", pictures=9, broken=0, classes=9, crops=crops, crop=224)
    report |= dict(label_order="ImageNet's identifiers", resize=256, interpolation="bicubic")
    text = evaluate._as_text(report | dict(top1_error=1.0, top5_error=0.0), "densenet121")
    position = text.index("published, of the 50,000 pictures")
    for words in expected:
        position = text.index(words, position)


@pytest.mark.parametrize("scores", [np.full(9, np.nan), np.zeros(9)])
def test_a_network_that_says_nothing_is_always_wrong(scores):
    assert evaluate._error([scores, None, scores], np.array([0, 1, 8]), 5) == 100


def test_a_run_knows_its_classes(capsys, finished_run, tmp_path):
    """The digits that it was tested on, as pictures; of three classes."""
    digits = load_digits()
    labels = digits.target[::5]
    for i, (image, label) in enumerate(zip(digits.images[::5], labels, strict=True)):
        if label in (1, 4, 7):
            path = tmp_path / "val" / str(label) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 255 / 16).round().astype(np.uint8)).save(path)
    argv = ["--weights", str(finished_run), "--pictures", str(tmp_path), "--compile_cache=off"]
    assert command.run(evaluate.main, [*argv, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["pictures"], report["classes"]) == (np.isin(labels, (1, 4, 7)).sum(), 3)
    assert report["label_order"] == "numbers from 0, as the run has no names (0, 1, 2, 3, 4, ...)"
    model = trained.load(finished_run).model
    scores = np.asarray(model((digits.images[::5, ..., None].astype(np.float32) - 4.88) / 6.02))
    wrong = (scores.argmax(1) != labels)[np.isin(labels, (1, 4, 7))]
    assert report["top1_error"] == pytest.approx(100 * wrong.mean(), abs=2)


@pytest.mark.parametrize("folder", [1], indirect=True)
@pytest.mark.parametrize(
    "arguments, words",
    [
        ([f"--model={NAME}", "--num_classes=7"], "has shape (1000,"),
        ([f"--model={NAME}", "--batch_size=0"], "batch_size is 0"),
        ([], "a file of weights needs the --model"),
    ],
)
def test_mistakes(capsys, weights, folder, arguments, words):
    status, output, errors = run(capsys, weights, folder[0], *arguments)
    assert status == 2 and output == "" and errors.count("\n") == 1 and words in errors


@pytest.mark.parametrize(
    "names, words",
    [
        (["cat"], "not named after the network's classes, such as cat (1 in all)"),
        ([], "missing"),
    ],
)
def test_folders_that_are_no_classes(capsys, weights, tmp_path, names, words):
    for name in names:
        (tmp_path / name).mkdir()
        next(pictures()).save(tmp_path / name / "picture.png")
    status, _, errors = run(capsys, weights, tmp_path, f"--model={NAME}")
    assert status == 2 and words in errors


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("removed", [None, "12", "3"])
def test_labels_of_numbered_folders_follow_the_text_as_in_training(tmp_path, first, removed):
    names = [str(number) for number in range(first, first + 13)]
    for name in names:
        (tmp_path / name).mkdir()
        if name != removed:
            next(pictures()).resize((8, 8)).save(tmp_path / name / "picture.png")
    paths, labels, _ = folders.labelled(tmp_path, len(names))
    assert {path.parent.name: label for path, label in zip(paths, labels, strict=True)} == {
        name: label for label, name in enumerate(sorted(names)) if name != removed
    }
    if removed is not None:
        (tmp_path / removed).rmdir()
        with pytest.raises(
            InputError,
            match=r"directories for 12 classes .*, but the network has 13 classes: make an",
        ):
            folders.labelled(tmp_path, len(names))
        found, labels, _ = folders.labelled(tmp_path, sorted(names))
        assert len(found) == 12 and labels.max() == 12


@pytest.mark.parametrize("part", ["train", "Training Set"])
def test_folders_for_training_are_no_classes(tmp_path, part):
    for name in (f"{part}/mole", f"{part}/vole", "extra/mole", "extra/vole"):
        (tmp_path / name).mkdir(parents=True)
        next(pictures()).resize((8, 8)).save(tmp_path / name / "picture.png")
    with pytest.raises(InputError, match=r"missing .*/val/CLASS.* has .*extra"):
        folders.labelled(tmp_path, 2)
    (tmp_path / "extra").rename(tmp_path / "Test Set")
    paths, labels, classes = folders.labelled(tmp_path, 2)
    assert {path.parent.parent.name for path in paths} == {"Test Set"}
    assert (labels.tolist(), classes) == ([0, 1], ["mole", "vole"])
    (tmp_path / "Test Set" / "sole").mkdir()
    with pytest.raises(InputError, match=r"for 3 classes .* has 2 classes: remove the others"):
        folders.labelled(tmp_path, 2)


def test_flags_of_weights_do_not_go_with_a_run(capsys, finished_run):
    assert command.run(evaluate.main, ["--workdir", str(finished_run), "--crop=8"]) == 2
    assert "--crop does not go with --workdir" in capsys.readouterr().err


def test_one_of_two_ways(capsys):
    assert command.run(evaluate.main, ["--weights=a.pth"]) == 2
    assert "give --workdir; or else both --weights and --pictures" in capsys.readouterr().err
