"""A run from its config to its result, with and without interruption."""

import contextlib
import io
import json
import time

import jax
import pytest
import small

from densenet_jax.errors import InputError, RunError
from densenet_jax.train import process
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.compiler import compile_program
from densenet_jax.train.fit import fit
from densenet_jax.train.record import best_epoch
from launch import command, evaluate


def read_json(path):
    return json.loads(path.read_text())


def read_metrics(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_run_writes_its_files(finished_run):
    config = read_json(finished_run / "config.json")
    assert config["epochs"] == 4 and config["model"]["growth_rate"] == 4
    environment = read_json(finished_run / "environment.json")
    assert {"packages", "devices", "git_revision"} <= environment.keys()
    assert environment["packages"]["jax"] == jax.__version__
    assert environment["process"]["switch_interval_seconds"] == process.SWITCH_INTERVAL_SECONDS
    assert any((finished_run / "checkpoints").iterdir())


def test_metrics_have_a_line_for_every_epoch(finished_run):
    lines = read_metrics(finished_run)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert [line["step"] for line in lines] == [22, 44, 66, 88]
    # The rate drops in epochs ceil(4 / 2) = 2 and ceil(4 * 3 / 4) = 3, as in the authors' code.
    assert [line["learning_rate"] for line in lines] == [0.1, 0.01, 0.001, 0.001]
    for line in lines:
        assert {"train_loss", "test_loss", "test_error", "validation_error"} <= line.keys()
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]


def test_the_result_agrees_with_the_metrics(finished_run, trainer):
    result, last = read_json(finished_run / "result.json"), read_metrics(finished_run)[-1]
    assert result["test_error"] == last["test_error"]
    assert (result["epochs"], result["seed"], result["reported_epoch"]) == (4, 0, 4)
    sizes = [leaf.size for leaf in jax.tree.leaves(trainer.initial_state.params)]
    assert result["params"] == sum(sizes)
    for key in ("train_seconds", "images_per_second", "compile_seconds"):
        assert result[key] > 0
    assert result["images_per_second"] * result["train_seconds"] >= 4 * 1400 * 0.99


def test_epochs_are_evaluated_at_the_interval_and_at_the_end(tmp_path):
    changes = {"eval_every_epochs": 2, "epochs": 3, "data.holdout": 0}
    fit(small.config(small.PLAIN | changes), tmp_path / "run")
    evaluated = ["test_error" in line for line in read_metrics(tmp_path / "run")]
    assert evaluated == [False, True, True]


@pytest.mark.slow
def test_the_best_epoch_in_validation_can_be_reported(tmp_path):
    made = small.config(small.PLAIN | {"report": "best_validation"})
    result = fit(made, tmp_path / "run")
    lines = read_metrics(tmp_path / "run")
    best = min(lines, key=lambda line: line["validation_error"])
    assert result["reported_epoch"] == best["epoch"]
    for key in ("test_error", "validation_error", "train_loss"):
        assert result[key] == best[key]
    # The first of equal epochs counts, wherever it is. Epochs without an evaluation do not count.
    worse = best | {"epoch": 9, "validation_error": best["validation_error"] + 1}
    same, unknown = best | {"epoch": 10}, {"epoch": 11, "train_loss": 0.0}
    for order in ([worse, best, same, unknown], [best, worse, unknown, same]):
        assert best_epoch(order) == best


def test_a_finished_run_is_left_alone(finished_run):
    before = small.snapshot(finished_run)
    result = fit(small.config(), finished_run)
    assert result == read_json(finished_run / "result.json")
    assert small.snapshot(finished_run) == before


def test_a_run_killed_before_its_result_writes_it_later(copied_run):
    metrics = (copied_run / "metrics.jsonl").read_bytes()
    result = read_json(copied_run / "result.json")
    (copied_run / "result.json").unlink()
    again = fit(small.config(), copied_run)
    for key in ("train_loss", "test_loss", "test_error", "epochs", "params", "seed"):
        assert again[key] == result[key]
    assert (copied_run / "metrics.jsonl").read_bytes() == metrics


def test_a_half_written_line_of_metrics_is_written_again(copied_run):
    """A full disk or a loss of power leaves a half-written line."""
    path = copied_run / "metrics.jsonl"
    metrics = path.read_bytes()
    (copied_run / "result.json").unlink()
    with path.open("ab") as file:
        file.write(b'{"step": 110, "epo')
    fit(small.config(), copied_run)
    assert path.read_bytes() == metrics


def test_a_nan_loss_ends_the_run(tmp_path):
    with pytest.raises(
        RunError, match=r"nan in step 2 \(epoch 1\); no .*: try a learning_rate below 1e\+30"
    ):
        fit(small.config({**small.PLAIN, "learning_rate": 1e30}), tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_compiling_a_shorter_dispatch_does_not_count_as_training(tmp_path, monkeypatch):
    """The last two of 22 steps are a separate program, compiled in the first epoch."""

    def compile_slowly(*arguments):
        time.sleep(1)
        return compile_program(*arguments)

    monkeypatch.setattr("densenet_jax.train.trainer.compile_program", compile_slowly)
    changes = {"epochs": 1, "steps_per_dispatch": 10}
    result = fit(small.config(small.PLAIN | changes), tmp_path / "run")
    # The rate is that of training alone; the seconds include evaluation.
    assert result["images_per_second"] * result["train_seconds"] >= 1400 * 0.99


@pytest.mark.slow
@pytest.mark.parametrize("steps_per_dispatch", [1, 5])
def test_a_nan_loss_keeps_the_last_finite_checkpoint(tmp_path, steps_per_dispatch):
    """The rate jumps after two epochs, and the second step with that rate has the NaN."""
    changes = {
        "learning_rate": 1e30,
        "learning_rate_drops": (),
        "warmup_epochs": 2.0,
        "steps_per_dispatch": steps_per_dispatch,
    }
    message = r"nan in step 46 \(epoch 3\); the checkpoint of step 44 is kept"
    for _ in range(2):
        with pytest.raises(RunError, match=message):
            fit(small.config(small.PLAIN | changes), tmp_path / "run")
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [22, 44]
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps()[0] == 44


@pytest.mark.slow
def test_the_best_epoch_has_a_checkpoint(tmp_path):
    """With too high a learning rate the error rises and falls."""
    changes = {"learning_rate": 2.0, "learning_rate_drops": (), "epochs": 6}
    fit(small.config(small.PLAIN | changes | {"checkpoint_every_epochs": 100}), tmp_path / "run")
    lines = read_metrics(tmp_path / "run")
    best = best_epoch(lines)
    assert best["step"] < lines[-1]["step"], "the test needs a best epoch before the last"
    argv = [
        "--workdir",
        str(tmp_path / "run"),
        "--checkpoint=best",
        "--compile_cache=off",
        "--json",
    ]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert command.run(evaluate.main, argv) == 0
    printed = json.loads(output.getvalue())
    for key in ("step", "test_error", "test_loss", "validation_error"):
        assert printed[key] == best[key]


def test_the_directory_of_another_run_is_refused(finished_run):
    before = small.snapshot(finished_run)
    with pytest.raises(InputError, match=r"seed \(0 there, 1 here\)"):
        fit(small.config({"seed": 1}), finished_run)
    assert small.snapshot(finished_run) == before


@pytest.mark.slow
def test_the_quickstart_learns(tmp_path):
    """With the right images and labels the test error is below 3 %."""
    process = small.start_train(tmp_path / "run", JAX_DISABLE_MOST_OPTIMIZATIONS="0")
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    assert read_json(tmp_path / "run" / "result.json")["test_error"] < 3
