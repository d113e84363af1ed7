"""Runs on folds, runs that end early, and the rate that drops on plateaus."""

import json
import shutil

import pytest
import small
from cases import slow_except

from densenet_jax.errors import InputError
from densenet_jax.train.config import check_config
from densenet_jax.train.fit import fit
from densenet_jax.train.record import RunDirectory
from launch import command, train

PATIENCE, EPOCHS = 2, 30
CHANGES = small.PLAIN | {
    **{"data.holdout": 0, "data.folds": 3, "data.fold": 1, "data.examples": 300},
    **{"epochs": EPOCHS, "early_stopping_epochs": PATIENCE, "report": "best_validation"},
    **{"learning_rate_schedule": "plateau", "plateau_evaluations": 1},
    **{"learning_rate_drop_factor": 0.5, "checkpoint_every_epochs": 100},
}


class Killed(BaseException):
    """Ends a run at once, as a kill does."""


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory):
    """Returns the directory of a run that ended early, which no test may change."""
    directory = tmp_path_factory.mktemp("stopped") / "run"
    fit(small.config(CHANGES), directory)
    return directory


def facts(directory):
    """Returns the parts of a result that do not depend on the speed of the machine."""
    timed = ("train_seconds", "images_per_second", "compile_seconds", "input_wait_seconds")
    result = RunDirectory(directory).result()
    return {key: value for key, value in result.items() if key not in timed}


def test_a_run_ends_a_number_of_epochs_after_the_best(stopped_run):
    lines, result = RunDirectory(stopped_run).metrics(), RunDirectory(stopped_run).result()
    errors = [line["validation_error"] for line in lines]
    since_best = [i - errors.index(min(errors[: i + 1])) for i in range(len(errors))]
    assert since_best.index(PATIENCE) + 1 == len(lines) < EPOCHS
    best = errors.index(min(errors)) + 1
    assert (result["epochs"], result["reported_epoch"]) == (len(lines), best)
    assert result["validation_error"] == min(errors)
    assert result["stopped_early"] == (
        f"after epoch {len(lines)} of {EPOCHS}: the lowest validation error was in epoch {best}"
    )
    # The rate of an epoch has dropped after each earlier epoch without a lower error.
    drops = [sum(errors[j] >= min(errors[:j]) for j in range(1, i)) for i in range(len(errors))]
    assert [line["learning_rate"] for line in lines] == [0.1 * 0.5**n for n in drops]
    assert drops[best - 1] > 0  # The resumed runs below begin with a dropped rate.


@pytest.mark.parametrize(
    "moment",
    slow_except(
        ["after its last line", "at its end"],
        ["before its last line", "after its last line", "at its end"],
    ),
)
def test_a_killed_run_ends_in_the_same_epoch(stopped_run, tmp_path, monkeypatch, moment):
    last, append = len(RunDirectory(stopped_run).metrics()), RunDirectory.append_metrics

    def killed(run, line):
        if line["epoch"] < last or moment.startswith("after"):
            append(run, line)
        if line["epoch"] == last:
            raise Killed

    if moment == "at its end":
        shutil.copytree(stopped_run, tmp_path / "run")
        (tmp_path / "run" / "result.json").unlink()
    else:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(RunDirectory, "append_metrics", killed)
            fit(small.config(CHANGES), tmp_path / "run")
    fit(small.config(CHANGES), tmp_path / "run")
    assert facts(tmp_path / "run") == facts(stopped_run)
    metrics = [path / "metrics.jsonl" for path in (tmp_path / "run", stopped_run)]
    assert metrics[0].read_bytes() == metrics[1].read_bytes()


@pytest.mark.slow
def test_a_fold_is_trained_and_validated_by_the_command(tmp_path, capsys):
    changes = CHANGES | {"epochs": 1, "early_stopping_epochs": 0}
    argv = ["--config", str(small.QUICKSTART), "--workdir", str(tmp_path / "run")]
    assert command.run(train.main, [*argv, *small.flags(changes)]) == 0
    assert "200 training images, 360 test images" in capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0 <= result["validation_error"] <= 100 and "stopped_early" not in result


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.folds": 1}, "data.folds is 1, which leaves no training images: use at least 2"),
        ({"data.folds": 3, "data.holdout": 9}, "data.folds is 3 and data.holdout 9, but a fold"),
        ({"data.folds": 3, "data.fold": 3}, "data.fold is 3, but data.folds is 3: use 0 to 2"),
        ({"data.fold": 1}, "data.fold is 1, but data.folds is 0: set data.folds to 2 or more"),
        ({"data.holdout_stratified": True}, "data.holdout_stratified is True, but data.holdout"),
        ({"early_stopping_epochs": 4}, "early_stopping_epochs is 4, but there are no validation"),
        ({"report": "best_validation"}, "report is 'best_validation', but there are no validation"),
        (
            {"data.folds": 3, "early_stopping_epochs": 9, "learning_rate_schedule": "plateau"},
            "early_stopping_epochs is 9, but the rate drops only after 10 evaluations on a plateau",
        ),
        ({"learning_rate_schedule": "plateau"}, "learning_rate_schedule is 'plateau', but there"),
    ],
)
def test_settings_that_contradict_each_other(changes, message):
    with pytest.raises(InputError) as caught:
        check_config(small.config({"data.holdout": 0} | changes))
    assert str(caught.value).startswith(message)
