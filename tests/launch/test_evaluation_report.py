"""launch.evaluate --report, and the figures of merit in it."""

import csv
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import small
from sklearn.metrics import roc_auc_score

from densenet_jax.analysis import evaluation
from densenet_jax.data.dataset import UNKNOWN
from densenet_jax.errors import InputError
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.trainer import Trainer
from launch import evaluate, evaluation_report


def drawn(size=20_000, classes=5, seed=0):
    """Returns logits, and labels drawn with the probabilities of these logits."""
    random = np.random.default_rng(seed)
    logits = 2 * random.standard_normal((size, classes))
    shares = evaluation.probabilities(logits, False).cumsum(-1)
    return logits, (shares < random.random((size, 1))).sum(-1)


def test_logits_times_3_have_the_temperature_3():
    logits, labels = drawn()
    assert evaluation.fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.05)
    shares = evaluation.probabilities(logits, multilabel=True)
    several = (np.random.default_rng(1).random(logits.shape) < shares).astype(int)
    several[::5, 0] = UNKNOWN
    assert evaluation.fit_temperature(3 * logits, several) == pytest.approx(3, rel=0.05)


def test_the_calibration_error_follows_its_definition():
    logits, labels = drawn(500)
    found = evaluation.probabilities(3 * logits, False)
    expected = 0.0
    for low in range(evaluation.BINS):
        chosen = [
            i for i, row in enumerate(found)
            if low / evaluation.BINS <= row.max() < (low + 1) / evaluation.BINS
            or (row.max() == 1 and low == evaluation.BINS - 1)
        ]  # fmt: skip
        if chosen:
            accuracy = np.mean([found[i].argmax() == labels[i] for i in chosen])
            confidence = np.mean([found[i].max() for i in chosen])
            expected += len(chosen) / len(labels) * abs(accuracy - confidence)
    assert evaluation.reliability(found, labels).error == pytest.approx(expected, rel=1e-9)
    assert expected > 0.05


def test_figures_by_class():
    found = np.array([[0.8, 0.2, 0], [0.3, 0.7, 0], [0.6, 0.4, 0], [0.1, 0.9, 0]])
    labels = np.array([0, 0, 1, 1])
    first, second, third = evaluation.by_class(found, labels, ["a", "b", "c"])
    assert (first["examples"], first["error"]) == (2, 50)
    assert first["precision"] == first["recall"] == second["f1"] == 0.5
    assert first["auroc"] == roc_auc_score(labels == 0, found[:, 0]) == 0.75
    assert third["examples"] == 0 and third["auroc"] is third["recall"] is None
    summary = evaluation.summary(found, labels, ["a", "b", "c"])
    assert summary["without_auroc"] == ["c"] and summary["macro_auroc"] == 0.75
    assert summary["error"] == summary["balanced_accuracy"] == 50


def test_unknown_labels_are_left_out():
    found = np.array([[0.9, 0.2], [0.4, 0.6], [0.2, 0.9], [0.7, 0.5]])
    labels = np.array([[1, UNKNOWN], [0, 1], [UNKNOWN, 0], [0, UNKNOWN]])
    first, second = evaluation.by_class(found, labels, ["a", "b"])
    assert first["auroc"] == 1 and first["error"] == pytest.approx(100 / 3)
    assert second["auroc"] == 0 and second["error"] == 50
    assert evaluation.summary(found, labels, ["a", "b"])["error"] == 40


LOGITS = """
import json, sys, jax
import small
from densenet_jax.train.trainer import Trainer
from densenet_jax.train.checkpoint import Checkpoints
trainer = Trainer(small.config())
with Checkpoints(small.RunDirectory(sys.argv[1]).checkpoints, read_only=True) as checkpoints:
    state, _ = checkpoints.restore(trainer.state_like)
logits, labels = trainer.logits(state, "test")
print(json.dumps([jax.device_count(), logits.tolist(), labels.tolist()]))
"""


def test_logits_are_those_of_evaluation_on_1_and_8_devices(finished_run):
    trainer = Trainer(small.config())
    with Checkpoints(finished_run / "checkpoints", read_only=True) as checkpoints:
        state, _ = checkpoints.restore(trainer.state_like)
    logits, labels = trainer.logits(state, "test")
    np.testing.assert_array_equal(labels, trainer.data.test.labels)
    error = 100 * np.mean(logits.argmax(-1) != labels)
    assert error == pytest.approx(trainer.evaluate(state)["test_error"])
    process = small.start(
        *("-c", LOGITS, finished_run), XLA_FLAGS="--xla_force_host_platform_device_count=8"
    )
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    devices, others, other_labels = json.loads(output.splitlines()[-1])
    assert devices == 8 and other_labels == labels.tolist()
    np.testing.assert_allclose(others, logits, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def report(finished_run, tmp_path_factory):
    directory = tmp_path_factory.mktemp("evaluation") / "report"
    evaluate.main(["--workdir", str(finished_run), "--report", str(directory)])
    return directory


def test_the_report_of_a_run(report, finished_run):
    metrics = json.loads((report / "metrics.json").read_text())
    result = json.loads((finished_run / "result.json").read_text())
    assert metrics["error"] == pytest.approx(result["test_error"])
    assert metrics["temperature"] > 0 and metrics["examples"] == 360
    with (report / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [f"test/{i}" for i in range(360)]
    wrong = np.mean([row["label"] != row["predicted"] for row in rows])
    assert 100 * wrong == pytest.approx(result["test_error"])
    sums = [sum(float(row[str(digit)]) for digit in range(10)) for row in rows]
    np.testing.assert_allclose(sums, 1, atol=1e-5)
    page = (report / "index.html").read_text()
    assert page.count("<img ") == 3 and "http" not in re.sub(r'src="data:[^"]*"', "", page)
    assert f"{metrics['calibration_error']:.4f}" in page


def written(directory, labels, classes, **changes):
    random = np.random.default_rng(0)
    found = evaluation_report.Evaluated(
        title="<a> & 'b'", logits=random.standard_normal((len(labels), len(classes))),
        labels=labels, names=[f"<{i}>" for i in range(len(labels))], classes=classes,
        image=lambda i: np.zeros((8, 8, 3), np.uint8), **changes,
    )  # fmt: skip
    evaluation_report.write(directory, found)
    return (directory / "index.html").read_text()


def test_names_are_escaped(tmp_path):
    page = written(tmp_path, np.array([0, 1, 0, 1]), ["<script>", '"$x$"'], skipped=3)
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "&lt;a&gt; &amp; &#x27;b&#x27;" in page
    assert "No temperature was fitted" in page and "--config.data.holdout=N" in page


def test_the_report_of_several_labels(tmp_path):
    labels = np.array([[1, 0], [0, UNKNOWN], [1, 1], [0, 1]])
    page = written(tmp_path, labels, ["even", "round"])
    assert "Confusion" not in page and not (tmp_path / "confusion.png").exists()
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines[0] == "path,label:even,label:round,even,round"
    assert lines[2].startswith("<1>,0,,0.")


def test_other_files_are_not_overwritten(tmp_path, finished_run):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="holds other files, such as thesis"):
        evaluate.main(["--workdir", str(finished_run), "--report", str(tmp_path)])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="no browser here")
def test_a_browser_shows_the_page(report, tmp_path):
    script = "<script>document.title = [...document.images].map(i => i.naturalWidth)</script>"
    page = tmp_path / "page.html"
    page.write_text((report / "index.html").read_text().replace("</body>", f"{script}</body>"))
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    widths = re.search("<title>(.*?)</title>", done.stdout)[1].split(",")
    assert len(widths) == 3 and all(int(width) > 300 for width in widths)
