"""launch.evaluate --report, and the figures of merit in it."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import small
from PIL import Image
from sklearn.metrics import roc_auc_score

from densenet_jax.analysis import evaluation, evaluation_figures
from densenet_jax.data import imagenet
from densenet_jax.data.dataset import UNKNOWN
from densenet_jax.errors import InputError
from densenet_jax.predict import probabilities
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.trainer import Trainer
from launch import evaluate, evaluation_report


def drawn(size=20_000, classes=5, seed=0):
    """Returns logits, and labels drawn with the probabilities of these logits."""
    random = np.random.default_rng(seed)
    logits = 2 * random.standard_normal((size, classes))
    shares = probabilities(logits, False).cumsum(-1)
    return logits, (shares < random.random((size, 1))).sum(-1)


def test_logits_times_3_have_the_temperature_3():
    logits, labels = drawn()
    assert evaluation.fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.05)
    shares = probabilities(logits, multilabel=True)
    several = (np.random.default_rng(1).random(logits.shape) < shares).astype(int)
    several[::5, 0] = UNKNOWN
    assert evaluation.fit_temperature(3 * logits, several) == pytest.approx(3, rel=0.05)


def test_no_temperature_is_made_up():
    """The likelihood of perfect predictions, and of useless ones, has no maximum."""
    logits = 5 * np.eye(3)
    assert evaluation.fit_temperature(logits, np.arange(3)) is None
    assert evaluation.fit_temperature(logits, np.array([1, 2, 0])) is None
    random = np.random.default_rng(0)
    other = evaluation.fit_temperature(drawn(500)[0], random.integers(0, 5, 500))
    assert other is None or other > 5


def test_the_calibration_error_follows_its_definition():
    logits, labels = drawn(500)
    found = probabilities(3 * logits, False)
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
    summary = evaluation.summary(found, labels, [first, second, third])
    assert summary["without_auroc"] == ["c"] and summary["macro_auroc"] == 0.75
    assert summary["error"] == summary["balanced_accuracy"] == 50


def test_unknown_labels_are_left_out():
    found = np.array([[0.9, 0.2], [0.4, 0.6], [0.2, 0.9], [0.7, 0.5]])
    labels = np.array([[1, UNKNOWN], [0, 1], [UNKNOWN, 0], [0, UNKNOWN]])
    first, second = evaluation.by_class(found, labels, ["a", "b"])
    assert first["auroc"] == 1 and first["error"] == pytest.approx(100 / 3)
    assert second["auroc"] == 0 and second["error"] == 50
    summary = evaluation.summary(found, labels, [first, second])
    assert summary["error"] == 40
    assert (first["recall"], first["specificity"]) == (1, 0.5)
    assert (second["recall"], second["specificity"]) == (1, 0)
    assert summary["balanced_accuracy"] == 62.5


def test_logits_of_mirror_images_are_those_of_evaluation(finished_run):
    trainer = Trainer(small.config())
    with Checkpoints(finished_run / "checkpoints", read_only=True) as checkpoints:
        state, _ = checkpoints.restore(trainer.state_like)
    found = trainer.logits(state, "test", 2)
    error = 100 * np.mean(found.logits.argmax(-1) != found.labels)
    assert error == pytest.approx(trainer.evaluate(state, 2)["test_error_2crop"])
    assert not np.allclose(found.logits, trainer.logits(state, "test").logits, atol=0.01)


LOGITS = """
import sys, jax
import numpy as np
import small
from densenet_jax.train.trainer import Trainer
from densenet_jax.train.checkpoint import Checkpoints
_, run, out, *processes = sys.argv
if processes:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(processes[0], 2, int(processes[1]))
trainer = Trainer(small.config({"eval_batch_size": 100}))
with Checkpoints(small.RunDirectory(run).checkpoints, read_only=True) as checkpoints:
    state, _ = checkpoints.restore(trainer.state_like)
found, error = trainer.logits(state, "test"), trainer.evaluate(state)["test_error"]
assert found.read.all()
np.savez(out, devices=jax.device_count(), error=error, logits=found.logits, labels=found.labels)
"""


@pytest.mark.parametrize(
    "devices, processes",
    [
        (8, 1),
        pytest.param(4, 1, marks=pytest.mark.slow),
        pytest.param(2, 2, marks=pytest.mark.slow),
    ],
)
def test_logits_are_those_of_evaluation_on_any_devices(
    trainer, finished_run, tmp_path, devices, processes
):
    """The last batch of the 360 test images is short."""
    with Checkpoints(finished_run / "checkpoints", read_only=True) as checkpoints:
        state, _ = checkpoints.restore(trainer.state_like)
    logits, labels = trainer.logits(state, "test").only_read()
    np.testing.assert_array_equal(labels, trainer.data.test.labels)
    error = 100 * np.mean(logits.argmax(-1) != labels)
    assert error == pytest.approx(trainer.evaluate(state)["test_error"])
    address = small.free_address()
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    started = [
        small.start(
            *("-c", LOGITS, finished_run, tmp_path / f"{i}.npz"),
            *([address, i] if processes > 1 else []),
            **flags,
        )
        for i in range(processes)
    ]
    for i, process in enumerate(started):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        others = np.load(tmp_path / f"{i}.npz")
        assert others["devices"] == devices * processes
        assert others["error"] == pytest.approx(error)
        np.testing.assert_array_equal(others["labels"], labels)
        np.testing.assert_allclose(others["logits"], logits, rtol=1e-4, atol=1e-4)


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
    with (report / "classes.csv").open() as file:
        assert sum(int(row["examples"]) for row in csv.DictReader(file)) == 360
    page = (report / "index.html").read_text()
    assert f"{result['test_error']:.2f} % error on 360 test examples" in page
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
    classes = ["<script>", '"$x$"', "caf\udce9"]
    page = written(tmp_path, np.array([0, 1, 0, 1]), classes, skipped=["<b>.png"])
    assert "<script>" not in page and "&lt;script&gt;" in page and "&quot;$x$&quot;" in page
    assert "&lt;a&gt; &amp; &#x27;b&#x27;" in page and "caf\\udce9" in page
    assert "1 picture could not be read, and no figure includes them: &lt;b&gt;.png" in page
    assert "Macro figures leave out 1 class without" in page
    assert "No temperature was fitted" in page and "--config.data.holdout=N" in page
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["skipped_pictures"] == ["<b>.png"] and metrics["skipped"] == 1


def test_a_page_without_mistakes_and_without_a_temperature(tmp_path):
    logits = 5 * np.eye(2)[[0, 1, 0]]
    found = evaluation_report.Evaluated(
        title="t", logits=logits, labels=np.array([0, 1, 0]), names=["a", "b", "c"],
        classes=["n01440764", "y"], image=None, held_out=(logits, np.array([0, 1, 0])),
    )  # fmt: skip
    evaluation_report.write(tmp_path, found)
    page = (tmp_path / "index.html").read_text()
    assert "There are no mistakes" in page and not (tmp_path / "worst.png").exists()
    assert "No temperature minimises the negative log-likelihood of the 3 held-out" in page
    assert '<th scope="row">tench' in page, "the name of n01440764"
    assert (tmp_path / "predictions.csv").read_text().startswith("path,label,predicted,n01440764,y")


@pytest.mark.slow
def test_a_hundred_classes_have_readable_names(tmp_path):
    """The confusion matrix has at least 15 pixels for each name."""
    counts, path = np.eye(100, dtype=int), tmp_path / "confusion.png"
    evaluation_figures.plot_confusion(counts, [f"class {i}" for i in range(100)], path)
    with Image.open(path) as image:
        assert min(image.size) >= 100 * 15


def test_damaged_weights_have_no_report(tmp_path):
    random = np.random.default_rng(0)
    logits = random.standard_normal((4, 2))
    logits[1, 0] = np.nan
    found = evaluation_report.Evaluated(
        title="t", logits=logits, labels=np.zeros(4, int), names=list("abcd"), classes=["x", "y"],
        image=None,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"NaN or infinity for 1 example of 4 \(test\)"):
        evaluation_report.write(tmp_path / "report", found)
    assert not (tmp_path / "report").exists()


def test_outputs_have_a_name():
    """A network may have more outputs than the data have classes."""
    assert evaluation_report.class_names(("a", "b"), 4) == ["a", "b", "2", "3"]
    assert evaluation_report.class_names(None, 2) == ["0", "1"]


def test_the_report_of_weights(weights, tmp_path, capsys):
    names = list(imagenet.classes())[:2]
    for number, name in enumerate(names):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(2):
            picture = np.random.default_rng([number, i]).integers(0, 256, (40, 50, 3), np.uint8)
            Image.fromarray(picture).save(tmp_path / "pictures" / name / f"{i}.png")
    broken = tmp_path / "pictures" / names[0] / "0.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    argv = ["--weights", str(weights), f"--model={small.CLASSIFIER}", "--num_classes=1000",
            "--resize=40", "--crop=32", "--compile_cache=off",
            "--pictures", str(tmp_path / "pictures")]  # fmt: skip
    with pytest.raises(InputError, match="is inside the pictures"):
        evaluate.main([*argv, "--report", str(tmp_path / "pictures" / "report")])
    evaluate.main([*argv, "--report", str(tmp_path / "report")])
    output = capsys.readouterr().out
    assert output.endswith(f"report: {tmp_path / 'report' / 'index.html'}\n")
    with (tmp_path / "report" / "predictions.csv").open() as file:
        rows = list(csv.reader(file))
    found = [(Path(row[0]).name, row[1]) for row in rows[1:]]
    assert found == [(f"{i}.png", name) for name in names for i in range(2)]
    np.testing.assert_allclose([sum(map(float, row[3:])) for row in rows[1:]], 1, atol=1e-5)
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["skipped_pictures"] == [str(broken)] and metrics["examples"] == 4
    assert metrics["temperature"] is None and len(metrics["without_auroc"]) == 998
    evaluation_report.check(tmp_path / "report")  # It may be written again.


def test_the_report_of_several_labels(tmp_path):
    labels = np.array([[1, 0], [0, UNKNOWN], [1, 1], [0, 1]])
    page = written(tmp_path, labels, ["even", "round"])
    assert "Confusion" not in page and not (tmp_path / "confusion.png").exists()
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines[0] == "path,label:even,label:round,even,round"
    assert lines[2].startswith("<1>,0,,0.")


@pytest.mark.parametrize("name", ["thesis.tex", "index.html", "metrics.json"])
def test_other_files_are_not_overwritten(tmp_path, finished_run, name):
    """A page of the user's own is no earlier report."""
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=f"holds other files, such as {name}: name a new"):
        evaluate.main(["--workdir", str(finished_run), "--report", str(tmp_path)])
    assert small.snapshot(tmp_path)[name][1] == b"{}"


def test_reports_go_to_directories(tmp_path, report):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "report"):
        with pytest.raises(InputError, match=r"cannot be written: .*file is a file"):
            evaluation_report.check(path)
    crashed = shutil.copytree(report, tmp_path / "crashed")
    (crashed / ".index.html.new").touch()
    before = small.snapshot(tmp_path)
    evaluation_report.check(crashed)
    evaluation_report.check(tmp_path / "new" / "report")
    assert small.snapshot(tmp_path) == before and not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="no browser here")
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_the_page(report, tmp_path, width):
    """All figures load, and the page itself does not scroll sideways, on a phone either."""
    script = (
        "<script>document.title = [...document.images].map(i => i.naturalWidth) + ';' + "
        "document.documentElement.scrollWidth + ';' + innerWidth</script>"
    )
    page = tmp_path / "page.html"
    page.write_text((report / "index.html").read_text().replace("</body>", f"{script}</body>"))
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu"]
    browser += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    options = dict(capture_output=True, text=True, timeout=120, check=True)
    dumped = subprocess.run([*browser, "--dump-dom", page.as_uri()], **options)
    widths, needed, window = re.search("<title>(.*?)</title>", dumped.stdout)[1].split(";")
    assert len(widths.split(",")) == 3 and min(map(int, widths.split(","))) > 300
    assert int(needed) <= int(window)
    picture = tmp_path / "page.png"
    subprocess.run([*browser, f"--screenshot={picture}", page.as_uri()], **options)
    with Image.open(picture) as image:
        assert len(image.convert("RGB").getcolors(2**24)) > 20, "more than a blank page"
