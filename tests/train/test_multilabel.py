"""Several labels per picture: label files, the loss on known labels, and weights of classes."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from PIL import Image

import densenet_jax as dj
from densenet_jax.data import sources
from densenet_jax.data.batches import Batch
from densenet_jax.data.dataset import UNKNOWN, Split
from densenet_jax.errors import InputError
from densenet_jax.train.fit import fit
from densenet_jax.train.losses import Loss, class_weights
from densenet_jax.train.progress import means
from densenet_jax.train.record import RunDirectory
from densenet_jax.train.step import batch_totals
from densenet_jax.train.trainer import Trainer
from launch import evaluate, export

NAMES = ("even", "above 4", "round")
ROUND = (0, 3, 6, 8, 9)


def labels_of(digits: np.ndarray, seed: int = 0) -> np.ndarray:
    """Returns the three labels of each digit, of which a fifth is unknown."""
    known = np.stack([digits % 2 == 0, digits > 4, np.isin(digits, ROUND)], 1).astype(np.int32)
    hidden = np.random.default_rng(seed).random(known.shape) < 0.2
    return np.where(hidden, UNKNOWN, known)


def digits() -> sources.Dataset:
    data = sources.load("digits")
    parts = {
        name: Split(part.images, labels_of(part.labels, seed))
        for seed, (name, part) in enumerate((("train", data.train), ("test", data.test)))
    }
    return dataclasses.replace(data, **parts, num_classes=3, classes=NAMES, multilabel=True)


def config(**changes):
    return small.config(small.PLAIN | {"loss": "sigmoid", "epochs": 1, "data.holdout": 0} | changes)


def random_batch(size=7):
    random = np.random.default_rng(0)
    return 3 * random.standard_normal((size, 3)), random.integers(-1, 2, (size, 3))


def reference(logits, labels, weights) -> float:
    """Returns the mean of the binary cross-entropy over the known labels."""
    probability = 1 / (1 + np.exp(-logits))
    each = -(weights * (labels == 1) * np.log(probability)
             + (labels == 0) * np.log(1 - probability))  # fmt: skip
    return each[labels != UNKNOWN].mean()


def test_the_loss_is_the_mean_over_known_labels(float64):
    logits, labels = random_batch()
    weights = (0.5, 2.0, 3.0)
    loss = Loss("sigmoid", class_weights=weights)
    mask = jnp.array([1.0] * 5 + [0] * 2)  # Padding.
    totals = batch_totals(jnp.asarray(logits), Batch(None, jnp.asarray(labels), mask), loss)
    assert float(totals.mean_loss) == pytest.approx(
        reference(logits[:5], labels[:5], np.array(weights)), rel=1e-12
    )
    wrong = ((logits[:5] > 0) != (labels[:5] == 1)) & (labels[:5] != UNKNOWN)
    assert means(totals, "test")["test_error"] == pytest.approx(
        100 * wrong.sum() / (labels[:5] != UNKNOWN).sum()
    )


def test_the_loss_equals_that_of_pytorch(float64):
    torch = pytest.importorskip("torch")
    logits, labels = random_batch()
    weights = (0.5, 2.0, 3.0)
    known = torch.tensor(labels != UNKNOWN)
    x = torch.tensor(logits, requires_grad=True)
    loss = torch.nn.BCEWithLogitsLoss(
        pos_weight=torch.tensor(weights, dtype=torch.float64), reduction="none"
    )
    expected = loss(x, torch.tensor(labels, dtype=torch.float64))[known].mean()
    expected.backward()
    batch = Batch(None, jnp.asarray(labels), jnp.ones(len(labels)))
    ours, gradient = jax.value_and_grad(
        lambda z: batch_totals(z, batch, Loss("sigmoid", class_weights=weights)).mean_loss
    )(jnp.asarray(logits))
    assert float(ours) == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-12, atol=1e-15)
    # The weighted cross-entropy divides by the sum of the weights.
    classes = np.arange(7) % 3
    weighted = torch.nn.CrossEntropyLoss(weight=torch.tensor(weights, dtype=torch.float64))
    expected = weighted(torch.tensor(logits), torch.tensor(classes)).item()
    batch = Batch(None, jnp.asarray(classes), jnp.ones(7))
    loss = Loss("cross_entropy", class_weights=weights)
    found = batch_totals(jnp.asarray(logits), batch, loss).mean_loss
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_unknown_labels_have_no_gradient():
    def loss(logits):
        return Loss("sigmoid")(logits, jnp.array([[1, UNKNOWN, 0]])).sum()

    gradient = jax.grad(loss)(jnp.array([[0.0, jnp.inf, 0.0]]))
    np.testing.assert_array_equal(gradient, [[-0.5, 0, 0.5]])


def train(config, devices=None) -> tuple[dict, Trainer]:
    """Trains on digits with three labels; returns the losses of each epoch and the trainer."""
    trainer = Trainer(config, data=digits(), devices=devices)
    state, lines = trainer.initial_state, []
    for epoch in range(config.epochs):
        totals = trainer.totals()
        for dispatch in trainer.epoch(epoch):
            state, totals = trainer.train(state, totals, dispatch, epoch)
        lines.append(means(totals, "train") | trainer.evaluate(state))
    known = (trainer.data.train.labels != UNKNOWN).sum()
    assert int(totals.labels) == known < 0.85 * trainer.data.train.labels.size
    return lines, trainer


def test_digits_with_three_labels_are_learned():
    changes = {"class_weights": "auto", "epochs": 2, "learning_rate_drops": ()}
    (first, *_, last), _ = train(config(**changes))
    assert last["test_error"] < 40  # Half of the labels are right by chance.
    assert last["train_loss"] < first["train_loss"]


DEVICES = """
import json, jax
from train.test_multilabel import config, train
made = config(dtype="float64")
print(json.dumps([train(made, jax.devices()[:count])[0] for count in (1, 4, 8)]))
"""


def test_losses_are_equal_on_1_4_and_8_devices():
    process = small.start(
        *("-c", DEVICES), JAX_ENABLE_X64="1",
        XLA_FLAGS="--xla_force_host_platform_device_count=8",
    )  # fmt: skip
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    one, *others = json.loads(output.splitlines()[-1])
    for other in others:
        assert other[0] == pytest.approx(one[0], rel=1e-9)


def test_automatic_weights():
    data = digits()
    labels = data.train.labels
    expected = (labels == 0).sum(0) / (labels == 1).sum(0)
    np.testing.assert_allclose(class_weights("auto", data), expected)
    single = sources.load("digits")
    counts = np.bincount(single.train.labels)
    np.testing.assert_allclose(
        class_weights("auto", single), len(single.train) / (10 * counts), rtol=1e-12
    )
    assert class_weights("1, 2,0.5", data) == (1, 2, 0.5)
    assert class_weights(None, data) == ()


def write_pictures(directory, digits, prefix="") -> list[str]:
    """Writes digits as PNGs of 16 pixels; returns their lines of a label file."""
    lines = []
    for i, (image, row) in enumerate(zip(digits.images, digits.labels, strict=True)):
        path = directory / f"{prefix}{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image.squeeze()).resize((16, 16)).save(path)
        words = ["" if label == UNKNOWN else str(label) for label in row]
        lines.append(",".join([f"{prefix}{i}.png", *words]))
    return lines


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Returns a directory of pictures with a label file."""
    directory = tmp_path_factory.mktemp("pictures")
    train = digits().train
    lines = write_pictures(directory, Split(train.images[:50], train.labels[:50]))
    (directory / "labels.csv").write_text("\n".join(["path," + ",".join(NAMES), *lines, ""]))
    return directory


def test_a_label_file_is_read(labelled):
    data = sources.load("folder", str(labelled), labels=str(labelled / "labels.csv"))
    assert data.classes == NAMES and data.multilabel
    assert (len(data.train), len(data.test)) == (40, 10)
    expected = digits().train.labels[:50]
    for part, rows in (
        (data.test, expected[::5]),
        (data.train, np.delete(expected, np.s_[::5], 0)),
    ):
        np.testing.assert_array_equal(
            sorted(part[i].label.tolist() for i in range(len(part))), sorted(rows.tolist())
        )


def test_directories_in_paths_divide_the_pictures(tmp_path):
    train = digits().train
    lines = write_pictures(tmp_path, Split(train.images[:6], train.labels[:6]), "train/")
    lines += write_pictures(tmp_path, Split(train.images[:2], train.labels[:2]), "val/")
    file = tmp_path / "labels.csv"
    file.write_text("\n".join(["path," + ",".join(NAMES), *lines]))
    data = sources.load("folder", str(tmp_path), labels=str(file))
    assert (len(data.train), len(data.test)) == (6, 2)
    file.write_text("\n".join(["path," + ",".join(NAMES), *(f"./{line}" for line in lines)]))
    data = sources.load("folder", str(tmp_path), labels=str(file))
    assert (len(data.train), len(data.test)) == (6, 2)
    more = write_pictures(tmp_path, Split(train.images[:1], train.labels[:1]), "other/")
    file.write_text("\n".join(["path," + ",".join(NAMES), *lines, *more]))
    with pytest.raises(InputError, match=r"has train/0.png and other/0.png: use paths in train/"):
        sources.load("folder", str(tmp_path), labels=str(file))


def test_pictures_that_are_not_read_are_told(tmp_path, caplog):
    train = digits().train
    parts = [Split(train.images[i : i + 4], train.labels[i : i + 4]) for i in (0, 4, 8, 12)]
    names = ("train/", "val/", "test/", "more/")
    lines = [write_pictures(tmp_path, *both) for both in zip(parts, names, strict=True)]
    file = tmp_path / "labels.csv"
    file.write_text("\n".join(["path," + ",".join(NAMES), *lines[0], *lines[1], *lines[2]]))
    data = sources.load("folder", str(tmp_path), labels=str(file))
    assert (len(data.train), len(data.test)) == (4, 4)
    assert "labels.csv: 4 pictures outside the parts that are read: 0.png, 1.png" in caplog.text
    assert "4 pictures not in labels.csv: 0.png, 1.png" in caplog.text


@pytest.fixture(scope="module")
def labelled_run(labelled, tmp_path_factory):
    """Returns the directory of a run on a label file, which no test may change."""
    changes = {
        "data.name": "folder",
        "data.directory": str(labelled),
        "data.labels": str(labelled / "labels.csv"),
        "data.image_size": 16,
        "data.workers": 0,
        "batch_size": 16,
    }
    directory = tmp_path_factory.mktemp("labelled") / "run"
    fit(config(**changes), directory)
    return directory


def test_a_run_on_a_label_file(labelled_run):
    result = RunDirectory(labelled_run).result()
    assert 0 <= result["test_error"] <= 100 and "test_top5_error" not in result
    model = RunDirectory(labelled_run).model()
    assert model["classes"] == list(NAMES) and model["multilabel"]


def test_held_out_pictures_do_not_make_a_label_known(labelled, tmp_path):
    """Holds out half of 16 training pictures, only one of which has a known label."""
    file, problems = tmp_path / "labels.csv", []
    for known in (i for i in range(20) if i % 5):
        words = (f"{i}.png,{'' if i % 5 and i != known else i % 2}" for i in range(20))
        file.write_text("\n".join(["path,odd", *words]))
        with pytest.raises(InputError) as error:
            sources.load("folder", str(labelled), holdout=8, labels=str(file))
        problems.append(str(error.value).removeprefix(str(file)))
    training = " gives no training picture a known odd: add labels, or remove the column"
    validation = " gives no validation picture a known label: add labels"
    assert sorted(problems) == 8 * [training] + 8 * [validation]


def test_an_exported_network_keeps_its_labels(labelled, labelled_run, tmp_path):
    export.main(["--weights", str(labelled_run), "--out", str(tmp_path / "exported")])
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "several for each picture" in card and "wrong labels" in card
    network = dj.pretrained.load(str(tmp_path / "exported"))
    assert network.multilabel
    found = dj.predict(network, labelled / "0.png")
    expected = dj.predict(dj.pretrained.load(str(labelled_run)), labelled / "0.png")
    assert [p.name for p in found] == [p.name for p in expected]
    np.testing.assert_allclose(
        [p.probability for p in found], [p.probability for p in expected], rtol=1e-5
    )
    with pytest.raises(InputError, match="class directories give it one: evaluate the run"):
        evaluate.main(["--weights", str(labelled_run), "--pictures", str(labelled)])


def test_a_run_on_a_label_file_is_evaluated_where_its_data_moved(
    labelled, labelled_run, tmp_path, capsys, monkeypatch
):
    shutil.copytree(labelled, tmp_path / "moved")
    argv = ["--workdir", str(labelled_run), "--data_directory", str(tmp_path / "moved")]
    with pytest.raises(InputError, match="is inside the pictures"):
        evaluate.main([*argv, "--report", str(tmp_path / "moved" / "report")])
    (labelled / "labels.csv").rename(labelled / "hidden.csv")
    try:
        evaluate.main([*argv, "--json"])
    finally:
        (labelled / "hidden.csv").rename(labelled / "labels.csv")
    found = json.loads(capsys.readouterr().out)
    result = RunDirectory(labelled_run).result()
    assert found["test_loss"] == pytest.approx(result["test_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("picture,even\n", "it needs a header"),
        ("path,even,even\n", "it needs a header"),
        ("path,even\n0.png,1,0\n", "line 2 of FILE has 2 labels instead of 1"),
        ("path,even\n0.png,1\n0.png,1\n", "line 3 of FILE repeats 0.png, of line 2"),
        ("path,even\nmissing.png,1\n", "line 2 of FILE: there is no picture"),
        ("path,even\n0.png,0.7\n", "line 2 of FILE has '0.7' for even: use 1, 0 or nothing"),
        ("path,even\n", "FILE has no pictures"),
        ("path,even\n0.png,1\n", "FILE has only test pictures"),
        ("path,path\n0.png,1\n", "it needs a header"),
        ("path,even\n0.png,1\n./0.png,0\n", "line 3 of FILE repeats 0.png, of line 2"),
        ("path,even\n../0.png,1\n", "line 2 of FILE: ../0.png is not below data.directory"),
        ("path,even\n/0.png,1\n", "line 2 of FILE: /0.png is not below data.directory"),
        (f"path,even\n{'x' * 5000},1\n", "line 2 of FILE: there is no picture"),
        ("path,even,odd\n0.png,1,0\n1.png,1,\n", "FILE gives no training picture a known odd"),
        ("path,even\n0.png,\n1.png,1\n", "FILE gives no test picture a known label"),
        ("path,even\nlabels.csv,1\n", "line 2 of FILE: labels.csv has not the ending of a picture"),
        (None, "cannot read data.labels FILE: No such file or directory"),
    ],
)
def test_wrong_label_files_are_refused(labelled, tmp_path, text, problem):
    file = tmp_path / "labels.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError) as error:
        sources.load("folder", str(labelled), labels=str(file))
    assert problem in str(error.value).replace(str(file), "FILE")
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, "each example of digits has one class: set loss to 'cross_entropy'"),
        ({"loss": "cross_entropy", "class_weights": "1,2"}, "use 'auto', or 10 numbers"),
        ({"loss": "cross_entropy", "class_weights": "auto", "label_smoothing": 0.1}, "unset it"),
        ({"loss": "sigmoid", "model.num_classes": 5}, "has 3 classes and 1 channel, but the model"),
        ({"data.labels": "x.csv"}, "data.labels is for data set 'folder', not for digits"),
    ],
)
def test_settings_that_do_not_suit_the_labels_are_refused(changes, problem):
    data = digits() if changes.get("loss") == "sigmoid" else None
    with pytest.raises(InputError) as error:
        Trainer(config(**({"loss": "sigmoid"} | changes)), data=data)
    assert problem in str(error.value)


@pytest.mark.parametrize(("value", "how_many"), [(0, "no"), (1, "every")])
def test_a_class_without_a_contrast_has_no_automatic_weight(value, how_many):
    data = digits()
    labels = data.train.labels.copy()
    labels[:, 1] = value
    train = Split(data.train.images, labels)
    with pytest.raises(InputError, match=f"{how_many} training example has the class 'above 4'"):
        class_weights("auto", dataclasses.replace(data, train=train))
