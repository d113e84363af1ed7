"""Networks of run directories, for use and as the start of another run."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
import small
from flax import nnx
from PIL import Image
from sklearn.datasets import load_digits

import densenet_jax as dj
from densenet_jax import weight_files
from densenet_jax.errors import InputError
from densenet_jax.train import saved_network
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.fit import fit
from densenet_jax.train.step import TrainState
from densenet_jax.train.trainer import Trainer
from launch import command, export


def states(model):
    """Returns the parameters and running statistics of a network, by path."""
    return dict(nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))))


def assert_equal(one, other):
    assert states(one).keys() == states(other).keys()
    for path, variable in states(one).items():
        np.testing.assert_array_equal(variable[...], states(other)[path][...])


@pytest.fixture(scope="module")
def network(finished_run):
    """Returns the network of the finished small run."""
    return saved_network.load_network(finished_run)


def test_the_network_of_a_run_has_the_test_error_of_its_result(finished_run, network, trainer):
    result = json.loads((finished_run / "result.json").read_text())
    images = (trainer.data.test.images - np.float32(trainer.data.mean)) / np.float32(
        trainer.data.std
    )
    logits = jax.jit(lambda model, x: model(x))(network.model, images)
    errors = np.asarray(logits).argmax(1) != trainer.data.test.labels
    assert 100 * errors.mean() == pytest.approx(result["test_error"])


def test_a_run_describes_the_input_of_its_network(network):
    found = network.description
    assert found["family"] == "DenseNetConfig"
    assert found["crop"] == {"resize": 8, "size": 8, "interpolation": "bicubic"}
    # White is 16 in the digits and 255 in pictures.
    assert found["mean"] == pytest.approx([4.88 * 255 / 16])


def test_a_run_can_start_from_the_network_of_another_run(finished_run, network):
    made = Trainer(small.config({"seed": 5}))
    assert re.fullmatch(r".*run: \d+ arrays loaded, with the classifier",
                        made.initialize(str(finished_run)))  # fmt: skip
    assert_equal(made._context.model(made.initial_state), network.model)


@pytest.mark.parametrize("source", ["file", "run directory"])
def test_a_run_can_start_from_weights_with_another_head(
    finished_run, network, tmp_path, caplog, source
):
    file = tmp_path / "a.safetensors"
    weight_files.write(file, dj.weights.to_torch(network.model))
    model = dj.create_model(
        "densenet_bc_k4_d10", block_config=(1, 1), in_channels=1, num_classes=3, rngs=nnx.Rngs(7)
    )
    before = dj.weights.to_torch(model)
    path = str(file if source == "file" else finished_run)
    told = saved_network.start_from(model, path)
    assert told == f"{path}: {len(before) - 2} arrays loaded; the classifier of 3 classes is new"
    (record,) = [record for record in caplog.records if record.name == "densenet_jax"]
    assert re.search(r"the classifier stays new: .*classifier", record.getMessage())
    theirs = dj.weights.to_torch(network.model)
    for name, array in dj.weights.to_torch(model).items():
        expected = before if name.startswith("classifier") else theirs
        np.testing.assert_array_equal(array, expected[name])


def test_a_file_of_the_same_classes_is_loaded_whole(network, tmp_path):
    file = tmp_path / "a.safetensors"
    weight_files.write(file, dj.weights.to_torch(network.model))
    model = nnx.clone(network.model)
    model.classifier.kernel[...] = 0
    told = saved_network.start_from(model, str(file))
    count = len(dj.weights.to_torch(network.model))
    assert told == f"{file}: {count} arrays loaded, with the classifier"
    assert_equal(model, network.model)


@pytest.mark.parametrize("source", ["run directory", "directory of launch.export"])
def test_a_run_fits_other_channels(finished_run, network, tmp_path, caplog, source):
    """A network of grey images serves for RGB pictures."""
    path = finished_run
    if source != "run directory":
        path = tmp_path / "exported"
        assert command.run(export.main, ["--weights", str(finished_run), "--out", str(path)]) == 0
    model = dj.create_model(
        "densenet_bc_k4_d10", block_config=(1, 1), in_channels=3, num_classes=3, rngs=nnx.Rngs(7)
    )
    told = saved_network.start_from(model, str(path))
    assert re.fullmatch(rf"{path}: \d+ arrays loaded; the classifier of 3 classes is new", told)
    assert "has 1 input channel instead of 3" in caplog.text
    grey = network.model.conv0.kernel[...]
    np.testing.assert_allclose(model.conv0.kernel[...].sum(2, keepdims=True), grey, rtol=1e-5)


def test_weights_of_another_network_are_refused(finished_run, tmp_path):
    other = dj.create_model("densenet_bc_k4_d10", rngs=nnx.Rngs(0))
    before = dj.weights.to_torch(other)
    words = r"has another network, which differs in \d+ arrays, .*: set model.name to densenet_bc_k"
    with pytest.raises(InputError, match=words):
        saved_network.start_from(other, str(finished_run))
    with pytest.raises(InputError, match=r"is not a run directory: it has no model\.json"):
        saved_network.start_from(other, str(tmp_path))
    for name, array in dj.weights.to_torch(other).items():
        np.testing.assert_array_equal(array, before[name])


def test_nan_in_a_run_directory_is_refused(copied_run, network):
    params, batch_stats = (
        nnx.to_pure_dict(nnx.state(network.model, kind)) for kind in (nnx.Param, nnx.BatchStat)
    )
    batch_stats["norm5"]["var"] *= np.nan
    with Checkpoints(copied_run / "checkpoints") as checkpoints:
        checkpoints.save(TrainState(np.array(10**6, np.int32), params, batch_stats, {}), {})
    model = nnx.clone(network.model)
    with pytest.raises(InputError, match=r"NaN or infinite values in 1 of \d+ arrays, norm5\.var:"):
        saved_network.start_from(model, str(copied_run))
    assert_equal(model, network.model)


@pytest.mark.parametrize("change", [{"family": "Dense"}, {"settings": {"growth": 4}}])
def test_a_damaged_description_is_refused(copied_run, change):
    path = copied_run / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=r"model\.json is damaged"):
        saved_network.load_network(copied_run)


@pytest.mark.slow
def test_resuming_needs_no_initial_weights(finished_run, tmp_path):
    """The weights that a run started from may be deleted before it resumes."""
    source = shutil.copytree(finished_run, tmp_path / "source")
    changes = {"init_from": str(source), "learning_rate": 0.01}
    fit(small.config(changes), tmp_path / "run")
    shutil.rmtree(source)
    (tmp_path / "run" / "result.json").unlink()
    fit(small.config(changes), tmp_path / "run")
    with pytest.raises(InputError, match=r"source"):
        fit(small.config(changes), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_transfer_beats_training_from_scratch(tmp_path):
    """Pretrains on many pictures of the digits 0 to 4, then trains on few of the digits 5 to 9."""
    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        if label < 5 or i < 300:
            path = tmp_path / ("many" if label < 5 else "few") / str(label) / f"{i:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15.9).astype(np.uint8)).save(path)
    common = {"data.name": "folder", "data.holdout": 0, "data.image_size": 8, "batch_size": 16}
    common |= {"epochs": 5, "model.dropout_rate": 0.0, "learning_rate_schedule": "cosine"}

    def train(name, **changes):
        made = small.config(common | {"data.directory": str(tmp_path / name), **changes})
        return fit(made, tmp_path / f"run{len(list(tmp_path.glob('run*')))}")["test_error"]

    train("many")
    scratch = train("few")
    transferred = train("few", init_from=str(tmp_path / "run0"))
    assert transferred < scratch - 5


@pytest.mark.slow
def test_a_multiplier_of_0_keeps_weights_but_not_running_statistics(
    finished_run, tmp_path, network
):
    frozen = {"learning_rate_multipliers": (("^(conv0|norm5)/", 0.0),), "epochs": 1}
    fit(small.config(frozen | {"init_from": str(finished_run)}), tmp_path / "run")
    ours = dj.weights.to_torch(saved_network.load_network(tmp_path / "run").model)
    before = dj.weights.to_torch(network.model)
    kept = {name for name, array in before.items() if np.array_equal(ours[name], array)}
    assert kept == {"features.conv0.weight", "features.norm5.weight", "features.norm5.bias"}
    assert {"features.norm5.running_mean", "features.norm5.running_var"} < before.keys()
