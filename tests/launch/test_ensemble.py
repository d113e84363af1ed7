"""Snapshots of a run are kept, and ensembles average the probabilities of their members."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import small
from scipy.special import expit, softmax

from densenet_jax import pretrained
from densenet_jax.data import sources
from densenet_jax.train.ensemble import average, errors
from densenet_jax.train.fit import fit
from densenet_jax.train.outputs import Outputs
from densenet_jax.train.record import RunDirectory
from launch import command, evaluate

# Four cycles of two epochs, of five steps each.
CHANGES = small.PLAIN | {
    **{"epochs": 8, "learning_rate_schedule": "cosine", "learning_rate_cycles": 4},
    **{"learning_rate": 0.2, "data.examples": 300, "checkpoint_every_epochs": 100},
}
SNAPSHOTS = [10, 20, 30, 40]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the directory of a run with four cycles, which no test may change."""
    directory = tmp_path_factory.mktemp("cycles") / "run"
    fit(small.config(CHANGES), directory)
    return directory


def steps(directory):
    return {int(path.name) for path in (directory / "checkpoints").iterdir()}


def run_evaluate(capsys, workdir, *arguments):
    """Runs the command; returns its exit status, output and errors."""
    argv = ["--workdir", str(workdir), "--compile_cache=off", *map(str, arguments)]
    return command.run(evaluate.main, argv), *capsys.readouterr()


def probabilities(directory, step, copy):
    """Returns the probabilities of the test digits by the checkpoint of one step."""
    others = [str(other) for other in steps(directory) - {step}]
    shutil.copytree(directory, copy, ignore=shutil.ignore_patterns(*others))
    network, digits = pretrained.load(copy), sources.load("digits")
    images = (digits.test.images - np.array(digits.mean)) / np.array(digits.std)
    return softmax(np.asarray(network(images.astype(np.float32), train=False)), axis=-1)


def error(found):
    return 100 * np.mean(found.argmax(-1) != sources.load("digits").test.labels)


def test_snapshots_are_kept_and_their_mean_probabilities_are_evaluated(run, tmp_path, capsys):
    assert steps(run) >= set(SNAPSHOTS)
    members = [probabilities(run, step, tmp_path / str(step)) for step in SNAPSHOTS]
    expected = error(np.mean(members, axis=0))
    result = RunDirectory(run).result()
    assert result["ensemble_test_error"] == pytest.approx(expected)
    assert expected != pytest.approx(result["test_error"]), "the test needs another error"
    before = small.snapshot(run)
    status, output, problems = run_evaluate(capsys, run, "--ensemble", "--json")
    assert status == 0, problems
    assert json.loads(output) == {
        "members": {
            f"step {step}": {"test_error": pytest.approx(error(member))}
            for step, member in zip(SNAPSHOTS, members, strict=True)
        },
        "ensemble": {"test_error": pytest.approx(expected)},
    }
    assert small.snapshot(run) == before


@pytest.mark.slow
@pytest.mark.parametrize("crops", [1, 2])
def test_a_report_describes_the_mean_probabilities(run, tmp_path, capsys, crops):
    report = tmp_path / "report"
    flags = ("--ensemble", "--json", f"--crops={crops}", f"--report={report}")
    status, output, problems = run_evaluate(capsys, run, *flags)
    assert status == 0, problems
    [(key, expected)] = json.loads(output)["ensemble"].items()
    assert key == "test_error" + "_2crop" * (crops == 2)
    metrics = json.loads((report / "metrics.json").read_text())
    assert metrics["error"] == pytest.approx(expected)
    assert metrics["temperature"] is not None
    assert "ensemble of 4 snapshots" in (report / "index.html").read_text()


class Killed(BaseException):
    """Ends a run at once, as a kill does."""


def test_a_killed_run_has_the_same_snapshots(run, tmp_path, monkeypatch):
    append = RunDirectory.append_metrics

    def killed(directory, line):
        append(directory, line)
        if line["epoch"] == 7:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RunDirectory, "append_metrics", killed)
        fit(small.config(CHANGES), tmp_path / "run")
    assert steps(tmp_path / "run") >= set(SNAPSHOTS[:3])
    fit(small.config(CHANGES), tmp_path / "run")
    assert steps(tmp_path / "run") == steps(run)
    first, second = (RunDirectory(path).result() for path in (run, tmp_path / "run"))
    for key in ("ensemble_test_error", "test_error", "test_loss"):
        assert first[key] == second[key]
    for step in SNAPSHOTS:
        file = f"checkpoints/{step}/progress/metadata"
        arrays = [
            json.loads((path / file).read_text())["arrays"] for path in (run, tmp_path / "run")
        ]
        assert arrays[0] == arrays[1]


def test_a_missing_snapshot_is_reported(run, tmp_path, capsys, caplog):
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(copy / "checkpoints" / "10")
    (copy / "result.json").unlink()
    assert "ensemble_test_error" not in fit(small.config(CHANGES), copy)
    [message] = [record.getMessage() for record in caplog.records]
    expected = f"{copy / 'checkpoints'} has no checkpoint of step 10: train the run to its end"
    assert message.startswith(f"the ensemble was not evaluated: {expected}")
    status, _, problems = run_evaluate(capsys, copy, "--ensemble")
    assert status == 2 and expected in problems and problems.count("\n") == 1


def test_an_ensemble_of_two_runs(run, tmp_path, capsys):
    changes = {"epochs": 2, "learning_rate_cycles": 1, "seed": 1}
    fit(small.config(CHANGES | changes), tmp_path / "other")
    members = [
        probabilities(run, 40, tmp_path / "40"),
        probabilities(tmp_path / "other", 10, tmp_path / "10"),
    ]
    capsys.readouterr()
    status, output, problems = run_evaluate(capsys, run, "--ensemble", tmp_path / "other")
    assert status == 0, problems
    assert output.splitlines() == [
        f"{run}: test error {error(members[0]):.2f} %",
        f"{tmp_path / 'other'}: test error {error(members[1]):.2f} %",
        f"ensemble of 2 runs: test error {error(np.mean(members, axis=0)):.2f} %",
    ]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"data.name": "synthetic"}, "data.name, digits and synthetic"),
        ({"data.preprocessing": "gcn"}, "their test images"),
        ({"model.num_classes": 11}, "their classes"),
    ],
)
def test_runs_of_other_data_are_refused(run, tmp_path, capsys, changes, difference):
    RunDirectory(tmp_path / "other").start(small.config(CHANGES | changes), {})
    status, output, problems = run_evaluate(capsys, run, "--ensemble", tmp_path / "other")
    assert status == 2 and not output and problems.count("\n") == 1
    assert (
        f"{tmp_path / 'other'} cannot be in an ensemble with {run}, because they differ in "
        f"{difference}: name runs with"
    ) in problems


def test_wrong_flags_are_refused(run, tmp_path, capsys):
    RunDirectory(tmp_path / "one").start(small.config(), {})
    for arguments, message in (
        (
            [tmp_path / "one", "--ensemble"],
            "has no snapshots, because its learning_rate_cycles is 1",
        ),
        ([run, "--checkpoint=best", "--ensemble"], "--checkpoint best cannot be used with"),
        ([run, "--ensemble", f"{run}/../run"], "twice: name each run once"),
    ):
        status, _, problems = run_evaluate(capsys, *arguments)
        assert status == 2 and message in problems and problems.count("\n") == 1
    argv = ["--weights", "a.pth", "--pictures", "b", "--ensemble", str(run)]
    assert command.run(evaluate.main, argv) == 2
    assert "--ensemble is for runs: set --workdir" in capsys.readouterr().err


def made_outputs(logits, labels, read=None):
    read = np.ones(len(labels), bool) if read is None else read
    return Outputs(np.asarray(logits, np.float32), np.asarray(labels, np.int32), read)


@pytest.mark.parametrize("labels", [[1, 0, 2], [[1, 0, 1], [0, 0, 1], [-1, 1, 0]]])
def test_probabilities_are_averaged_and_stay_finite(labels):
    random = np.random.default_rng(0)
    members = [made_outputs(random.normal(size=(3, 3)) * scale, labels) for scale in (1, 3, 900)]
    logits = average(members).logits
    assert np.isfinite(logits).all()
    turn = expit if np.ndim(labels) == 2 else softmax
    turns = [turn(member.logits.astype(float), *[-1] * (turn is softmax)) for member in members]
    found = turn(logits, *[-1] * (turn is softmax))
    np.testing.assert_allclose(found, np.mean(turns, axis=0), rtol=1e-9)


def test_errors_of_pictures_and_of_several_labels():
    pictures = SimpleNamespace(data=SimpleNamespace(streamed=True))
    logits = [[6, 5, 4, 3, 2, 1, 0], [6, 5, 4, 3, 2, 1, 0], [6, 5, 4, 3, 2, 1, 0], [0] * 7]
    outputs = made_outputs(logits, [0, 4, 5, 0], np.array([True, True, True, False]))
    assert errors(pictures, outputs) == {
        "test_error": pytest.approx(200 / 3),
        "test_top5_error": pytest.approx(100 / 3),
        "test_broken_pictures": 1,
    }
    # Unknown labels count nowhere, and a probability of one half is wrong.
    labelled = made_outputs([[1, -1, 0], [1, 1, -1]], [[1, 1, 1], [0, -1, 0]])
    in_memory = SimpleNamespace(data=SimpleNamespace(streamed=False))
    assert errors(in_memory, labelled) == {"test_error": pytest.approx(60)}
