"""`python -m launch.evaluate --workdir`: the errors of training, without any file written."""

import json
import shutil

import numpy as np
import published_sets
import pytest
import small

from densenet_jax import pretrained
from densenet_jax.data import sources
from densenet_jax.train.fit import fit
from launch import command, evaluate


def run_evaluate(capsys, workdir, *arguments):
    """Runs the command; returns its exit status, output and errors."""
    argv = ["--workdir", str(workdir), "--compile_cache=off", "--json", *arguments]
    status = command.run(evaluate.main, argv)
    return status, *capsys.readouterr()


def test_evaluates_as_training_did(finished_run, capsys):
    before = small.snapshot(finished_run)
    status, output, _ = run_evaluate(capsys, finished_run)
    assert status == 0
    printed = json.loads(output)
    result = json.loads((finished_run / "result.json").read_text())
    assert printed["step"] == 4 * small.STEPS_PER_EPOCH
    for key in ("test_error", "test_loss", "validation_error", "validation_loss"):
        assert printed[key] == result[key]
    assert small.snapshot(finished_run) == before


def test_prints_a_line_without_json(finished_run, capsys):
    argv = ["--workdir", str(finished_run), "--compile_cache=off"]
    assert command.run(evaluate.main, argv) == 0
    result = json.loads((finished_run / "result.json").read_text())
    [line] = capsys.readouterr().out.splitlines()
    assert line == (
        f"step {4 * small.STEPS_PER_EPOCH}: "
        f"validation loss {result['validation_loss']:.4g}, "
        f"validation error {result['validation_error']:.2f} %, "
        f"test loss {result['test_loss']:.4g}, test error {result['test_error']:.2f} %"
    )


def test_mirror_images_are_averaged(finished_run, capsys):
    status, output, _ = run_evaluate(capsys, finished_run, "--crops=2")
    assert status == 0
    network, digits = pretrained.load(finished_run), sources.load("digits")
    images = (digits.test.images - np.array(digits.mean)) / np.array(digits.std)
    scores = sum(network(x.astype(np.float32), train=False) for x in (images, images[:, :, ::-1]))
    error = 100 * np.mean(np.argmax(scores, 1) != digits.test.labels)
    printed = json.loads(output)
    assert printed["test_error_2crop"] == pytest.approx(error)
    assert printed["test_error_2crop"] != printed["test_error"], "the test needs another error"


def test_a_line_names_every_kind_of_value():
    values = {"test_top5_error": 7.7, "test_broken_pictures": 1234, "test_top5_error_10crop": 6.5}
    values["test_error_2crop"] = 1.0
    assert evaluate._as_line(1000, values) == (
        "step 1,000: test top-5 error 7.70 %, test broken pictures 1,234, "
        "test top-5 error of ten crops 6.50 %, test error with mirror images 1.00 %"
    )


def test_a_run_that_lacks_newer_keys(copied_run, capsys):
    path = copied_run / "config.json"
    config = json.loads(path.read_text())
    del config["report"], config["data"]["examples"], config["model"]["se_ratio"]
    path.write_text(json.dumps(config))
    status, output, errors = run_evaluate(capsys, copied_run)
    assert status == 0, errors
    result = json.loads((copied_run / "result.json").read_text())
    assert json.loads(output)["test_error"] == result["test_error"]


@pytest.mark.parametrize("folder", ["missing", "empty", "other"])
def test_a_directory_that_is_not_a_run_directory(tmp_path, capsys, folder):
    path = tmp_path / folder
    if folder != "missing":
        path.mkdir()
    if folder == "other":
        (path / "thesis.tex").write_text("precious")
    before = small.snapshot(tmp_path)
    status, _, errors = run_evaluate(capsys, path)
    assert status == 2
    assert errors.count("\n") == 1 and "Traceback" not in errors
    assert f"{path} is not a run directory" in errors
    assert small.snapshot(tmp_path) == before and path.exists() == (folder != "missing")


@pytest.mark.parametrize("checkpoints", ["none", "an empty folder"])
def test_run_without_a_checkpoint(copied_run, capsys, checkpoints):
    """A run that was stopped before its first save has no checkpoint."""
    shutil.rmtree(copied_run / "checkpoints")
    if checkpoints == "an empty folder":
        (copied_run / "checkpoints").mkdir()
    status, _, errors = run_evaluate(capsys, copied_run)
    assert status == 2
    assert errors.count("\n") == 1 and "holds no checkpoint" in errors


@pytest.mark.slow
def test_data_that_have_moved(tmp_path, capsys):
    parts = published_sets.make_parts({"train": 40, "test": 20})
    files = published_sets.cifar_files("cifar10", "binary", parts)
    published_sets.write_directory(tmp_path / "there", files)
    changes = {
        "epochs": 1,
        "batch_size": 20,
        "data.name": "cifar10",
        "data.directory": str(tmp_path / "there"),
        "data.holdout": 0,
    }
    result = fit(small.config(small.PLAIN | changes), tmp_path / "run")
    (tmp_path / "there").rename(tmp_path / "here")
    status, _, errors = run_evaluate(capsys, tmp_path / "run")
    assert status == 2 and f"missing {tmp_path / 'there'}" in errors
    flag = f"--data_directory={tmp_path / 'here'}"
    status, output, _ = run_evaluate(capsys, tmp_path / "run", flag)
    assert status == 0 and json.loads(output)["test_error"] == result["test_error"]
