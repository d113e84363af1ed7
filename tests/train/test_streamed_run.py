"""Runs on streamed pictures do not depend on devices, processes, workers and restarts."""

import json
from pathlib import Path

import pytest
import small
import small_imagenet

from densenet_jax.errors import PREEMPTED_STATUS, InputError
from densenet_jax.train.fit import fit
from densenet_jax.train.record import RunDirectory
from densenet_jax.train.trainer import Trainer
from experiments.cvpr2017 import recipes
from launch import evaluate

SCRIPT = "tests/train/stopped_run.py"
# The recipe for ImageNet with a tiny network. 24 pictures are 3 batches of 8.
RUN = {
    **{"epochs": 3, "batch_size": 8, "eval_batch_size": 8, "learning_rate": 0.01},
    **{"model.name": "densenet121", "model.block_config": (1, 1), "model.growth_rate": 4},
    **{"model.stem_features": 4, "model.dropout_rate": 0.0},
    **{
        "data.name": "imagenet",
        "data.holdout": 0,
        "data.random_crop": "resized",
        "data.flip": True,
    },
    **{"data.color_jitter": 0.4, "data.lighting": 0.1, "data.ten_crops": True},
}
MODERN = {"data.random_augment": 9.0, "data.random_erasing": 0.25, "data.color_jitter": 0.0}
MODERN |= {"data.lighting": 0.0, "data.mixup": 0.8, "ema_decay": 0.9, "epochs": 2}


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    """Returns changes to the small config that train with the recipe on a tiny ImageNet."""
    directory = tmp_path_factory.mktemp("imagenet")
    train, validation = small_imagenet.train_pictures(), small_imagenet.validation_pictures()
    small_imagenet.write_archives(directory, train, validation)
    return RUN | {"data.directory": str(directory)}


@pytest.fixture(scope="module")
def finished(changes, tmp_path_factory):
    """Returns the directory of a finished run, which no test may change."""
    directory = tmp_path_factory.mktemp("streamed") / "run"
    fit(small.config(changes), directory)
    return directory


def test_the_small_run_follows_the_recipe(changes):
    recipe, ours = recipes.imagenet("densenet121").data, small.config(changes).data
    for key in ("augment", "random_crop", "flip", "color_jitter", "lighting", "ten_crops"):
        assert ours[key] == recipe[key]


def test_metrics_include_top_5_and_ten_crop_errors(finished):
    lines, result = RunDirectory(finished).metrics(), RunDirectory(finished).result()
    assert [line["step"] for line in lines] == [3, 6, 9]
    for line in lines:
        assert 0 <= line["test_top5_error"] <= line["test_error"] <= 100
        assert "broken_pictures" not in line
    assert "test_error_10crop" in lines[-1] and "test_error_10crop" not in lines[0]
    for key in ("test_top5_error", "test_error_10crop", "test_top5_error_10crop"):
        assert result[key] == lines[-1][key]
    assert 0 < result["input_wait_seconds"] < result["train_seconds"]


def test_evaluate_gives_the_ten_crop_errors_of_the_run(finished, capsys, tmp_path):
    evaluate.main(["--workdir", str(finished), "--crops=10", "--json", f"--report={tmp_path}"])
    found, result = json.loads(capsys.readouterr().out), RunDirectory(finished).result()
    for key in ("test_error", "test_top5_error", "test_error_10crop", "test_top5_error_10crop"):
        assert found[key] == result[key]
    assert found["test_loss"] == pytest.approx(result["test_loss"], rel=1e-6)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["error"] == pytest.approx(result["test_error_10crop"])
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    names = [line.partition(".JPEG")[0].rpartition("/")[2] for line in lines[1:]]
    assert len(set(names)) == len(names) == metrics["examples"] == 9


@pytest.mark.slow
@pytest.mark.parametrize(("step", "more"), [(4, {}), (6, {}), (4, MODERN)])
def test_a_resumed_run_trains_on_the_same_pictures(tmp_path, changes, step, more, capsys):
    """Resumes with other workers, in the middle of an epoch and at its end."""
    alone, stopped = tmp_path / "alone", tmp_path / "stopped"
    fit(small.config(changes | more), alone)
    process = small.start(SCRIPT, stopped, step, json.dumps(changes | more))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == PREEMPTED_STATUS, errors
    fit(small.config(changes | more | {"data.workers": 2}), stopped)
    assert f"resuming from step {step}" in capsys.readouterr().out
    assert (stopped / "metrics.jsonl").read_bytes() == (alone / "metrics.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 1])
def test_devices_and_processes_change_no_loss(tmp_path, changes, finished, count):
    """Eight devices, of two processes or of one."""
    coordinator = small.free_address()
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // count}"}
    processes = [
        small.start(
            *(SCRIPT, tmp_path / "run", 0, json.dumps(changes)),
            *([coordinator, process] if count > 1 else []),
            **flags,
        )
        for process in range(count)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    expected = RunDirectory(finished).metrics()
    for line, other in zip(RunDirectory(tmp_path / "run").metrics(), expected, strict=True):
        assert line == pytest.approx(other, rel=1e-4)


@pytest.mark.slow
def test_broken_pictures_are_counted(tmp_path, changes):
    directory = tmp_path / "imagenet"
    train, validation = small_imagenet.train_pictures(), small_imagenet.validation_pictures()
    for files in train.values():
        name = next(iter(files))
        files[name] = files[name][:500]
    last = next(reversed(validation))
    validation[last] = validation[last][:500]
    small_imagenet.write_directories(directory, train, validation)
    wanted = changes | {"data.directory": str(directory), "epochs": 1}
    with pytest.raises(InputError, match=r"_1000\.JPEG is damaged .* data\.skip_broken"):
        fit(small.config(wanted), tmp_path / "run")
    result = fit(small.config(wanted | {"data.skip_broken": True}), tmp_path / "run")
    assert result["broken_pictures"] == 3 and result["test_broken_pictures"] == 1
    assert result["test_error"] in [100 * wrong / 8 for wrong in range(9)], "one of nine is broken"
    assert not result["official_data"]
    evaluate.main(["--workdir", str(tmp_path / "run"), f"--report={tmp_path / 'report'}"])
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["error"] == pytest.approx(result["test_error"]) and metrics["examples"] == 8
    assert [Path(name).name for name in metrics["skipped_pictures"]] == [last]
    # The largest picture of each of the three classes, and one test picture, exceed this limit.
    wanted |= {"data.skip_broken": True, "data.max_pixels": 800_000}
    result = fit(small.config(wanted), tmp_path / "limited")
    assert result["broken_pictures"] == 6 and result["test_broken_pictures"] == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"data.preprocessing": "gcn"}, "imagenet is streamed: use 'standardize'"),
        ({"data.random_crop": "any"}, "data.random_crop is 'any': choose one of padded, resized"),
        ({"data.color_jitter": 1.5}, "data.color_jitter is 1.5: use a number from 0 to 1"),
        ({"data.workers": -1}, "data.workers is -1: use an integer from 0 to 1,024"),
        ({"data.max_pixels": 0}, "data.max_pixels is 0: use an integer from 1 to"),
        ({"label_smoothing": 0.1, "loss": "squared_hinge"}, "label_smoothing is 0.1, but"),
    ],
)
def test_impossible_settings_are_refused(changes, wrong, message):
    with pytest.raises(InputError, match=message) as caught:
        Trainer(small.config(changes | wrong))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"data.random_crop": "resized"}, "'resized' is for pictures, not for digits"),
        ({"data.lighting": 0.1}, "are for images of three colours"),
        (
            {"data.trivial_augment": True, "data.preprocessing": "gcn"},
            "data.trivial_augment is for",
        ),
        ({"data.trivial_augment": True, "data.augment": False}, "but data.augment is False"),
        ({"data.random_augment": 9.0, "data.preprocessing": "gcn"}, "data.random_augment is for"),
        (
            {"data.random_augment": 9.0, "data.augment": False},
            "random_augment is 9.0, but data.aug",
        ),
        (
            {"data.random_augment": 9.0, "data.trivial_augment": True},
            "data.trivial_augment is True and data.random_augment is 9, but",
        ),
        ({"data.ten_crops": True}, "data.ten_crops is for pictures, and digits has none"),
    ],
)
def test_settings_for_pictures_are_refused_for_digits(wrong, message):
    with pytest.raises(InputError, match=message):
        Trainer(small.config(wrong))
