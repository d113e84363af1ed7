"""`python -m launch.evaluate --weights FILE --pictures DIR`: errors on directories of pictures."""

import json

import numpy as np
import pytest
import small
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from densenet_jax.data import folders, imagenet
from densenet_jax.data.pictures import CentralCrop, Preprocessing
from densenet_jax.errors import InputError
from densenet_jax.predict import logits
from densenet_jax.train import saved_network
from densenet_jax.train.fit import fit
from launch import command, evaluate

MODEL = (f"--model={small.CLASSIFIER}", "--num_classes=1000")
FLAGS = ["--resize=40", "--crop=32", "--compile_cache=off"]
# Number of classes that score higher than the right class, for each picture.
RANKS = [0, 0, 3, 4, 5, 500]


def pictures():
    """Yields parts of two photographs."""
    for photograph in load_sample_images().images:
        for left in (0, 150, 300):
            yield Image.fromarray(photograph[50:350, left : left + 340])


@pytest.fixture(params=[1, 2, 10])
def folder(request, network, tmp_path):
    """Writes pictures to class directories with known ranks; returns the path and the crops."""
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
    flags = [*MODEL, f"--crops={crops}", "--json", "--batch_size=4"]
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
    status, output, errors = run(capsys, weights, path, *MODEL)
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
def test_published_errors_are_printed(crops, expected):
    report = dict(weights="w.pth", pictures=9, broken=0, classes=9, crops=crops, crop=224)
    report |= dict(label_order="ImageNet's identifiers", resize=256, interpolation="bicubic")
    text = evaluate._as_text(report | dict(top1_error=1.0, top5_error=0.0), "densenet121")
    position = text.index("published, on the 50,000 pictures")
    for words in expected:
        position = text.index(words, position)


def test_no_published_error_has_mirror_images_alone():
    assert evaluate._published("densenet121", 2) == []


def test_top_5_errors_need_more_than_five_classes():
    report = dict(weights="w.pth", pictures=9, broken=0, classes=2, crops=1, crop=224, resize=256)
    report |= dict(label_order="names", interpolation="bicubic", top1_error=12.5)
    *_, header, measured = evaluate._as_text(report, "densenet121").splitlines()
    assert header.split() == ["error", "in", "%", "top-1"]
    assert measured.split() == ["measured", "12.50"]


@pytest.fixture
def trained_on_pictures(tmp_path):
    """Trains on class directories, with and without parts; returns the pictures and the run."""

    def train(is_divided):
        directory = tmp_path / "pictures"
        for part in ("train", "val") if is_divided else ("",):
            for name in ("cat", "dog"):
                (directory / part / name).mkdir(parents=True)
                for i, picture in enumerate(pictures()):
                    picture.save(directory / part / name / f"{i}.png")
        config = command.load_config(str(small.ROOT / "experiments/transfer/folder.py"))
        config.update_from_flattened_dict(
            {"model.name": small.CLASSIFIER, "data.directory": str(directory), "epochs": 1,
             "batch_size": 2, "data.image_size": 32, "data.crop_padding": 2}
        )  # fmt: skip
        fit(config, tmp_path / "run")
        return directory, tmp_path / "run"

    return train


@pytest.mark.parametrize("is_divided", [False, True])
def test_evaluation_on_pictures_of_the_training(capsys, caplog, trained_on_pictures, is_divided):
    directory, run = trained_on_pictures(is_divided)
    capsys.readouterr()
    assert "top5" not in (run / "metrics.jsonl").read_text()
    warned = {}
    for pictures in [directory, *([directory / "train", directory / "val"] * is_divided)]:
        caplog.clear()
        argv = ["--weights", str(run), "--pictures", str(pictures), "--compile_cache=off"]
        assert command.run(evaluate.main, [*argv, "--json"]) == 0
        assert "top5_error" not in json.loads(capsys.readouterr().out)
        message = f"{pictures} holds the pictures that this network was trained on: errors are too"
        warned[pictures.name] = message in caplog.text
    expected = {"pictures": False, "train": True, "val": False}
    assert warned == (expected if is_divided else {"pictures": True})


@pytest.mark.parametrize("scores", [np.full(9, np.nan), np.zeros(9)])
def test_ties_and_nan_count_as_errors(scores):
    assert evaluate._error([scores, None, scores], np.array([0, 1, 8]), 5) == 100


def test_a_run_records_its_classes(capsys, finished_run, tmp_path):
    """Evaluates a run on pictures of its test set, from three classes."""
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
    assert report["label_order"] == "class names of the run (0, 1, 2, 3, 4, ...)"
    model = saved_network.load_network(finished_run).model
    scores = np.asarray(model((digits.images[::5, ..., None].astype(np.float32) - 4.88) / 6.02))
    wrong = (scores.argmax(1) != labels)[np.isin(labels, (1, 4, 7))]
    assert report["top1_error"] == pytest.approx(100 * wrong.mean(), abs=2)


@pytest.mark.parametrize("folder", [1], indirect=True)
@pytest.mark.parametrize(
    "arguments, words",
    [
        ([MODEL[0], "--num_classes=7"], "has shape (1000,"),
        ([*MODEL, "--batch_size=0"], "batch_size is 0"),
        ([], "is a weights file without the name of its network"),
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
def test_directories_that_are_not_classes(capsys, weights, tmp_path, names, words):
    for name in names:
        (tmp_path / name).mkdir()
        next(pictures()).save(tmp_path / name / "picture.png")
    status, _, errors = run(capsys, weights, tmp_path, *MODEL)
    assert status == 2 and words in errors


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("removed", [None, "12", "3"])
def test_labels_follow_directory_names_sorted_as_text(tmp_path, first, removed):
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
def test_directories_of_splits_are_not_classes(tmp_path, part):
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


@pytest.mark.parametrize("flag", ["--crop=8", "--ema"])
def test_flags_of_weights_are_refused_for_a_run(flag, capsys, finished_run):
    assert command.run(evaluate.main, ["--workdir", str(finished_run), flag]) == 2
    assert f"{flag.partition('=')[0]} cannot be used with --workdir" in capsys.readouterr().err


def test_workdir_or_weights_must_be_set(capsys):
    assert command.run(evaluate.main, ["--weights=a.pth"]) == 2
    assert "set either --workdir, or both --weights and --pictures" in capsys.readouterr().err
