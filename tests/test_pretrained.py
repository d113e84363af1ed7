"""Networks with weights and preprocessing, by the name of their weights."""

import json

import hub_cache
import numpy as np
import pytest
import small
from flax import nnx

import densenet_jax as dj
from densenet_jax import pretrained, timm_config, weight_files
from densenet_jax.data.pictures import CentralCrop, Preprocessing
from densenet_jax.models.catalog import model_config
from launch import command
from launch import predict as launch_predict

NAME = small.CLASSIFIER
PICTURE = np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8)
CONFIG = {
    "architecture": NAME,
    "num_classes": 7,
    "global_pool": "avg",
    "pretrained_cfg": {
        "tag": "test",
        "input_size": [3, 32, 32],
        "test_input_size": [3, 36, 36],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "test_crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.1],
        "num_classes": 7,
    },
    "label_names": [f"n{i}" for i in range(7)],
    "label_descriptions": {"n0": "bird"},
}


@pytest.fixture
def trained():
    """A network of seven classes, as on the hub."""
    return dj.create_model(NAME, num_classes=7, rngs=nnx.Rngs(1))


@pytest.fixture
def hub(tmp_path, monkeypatch, trained):
    """Returns a function that puts a repository into the cache of a hub that cannot be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://127.0.0.1:1")

    def add(repository, config):
        snapshot = hub_cache.add_repository(tmp_path / "hub", repository)
        (snapshot / "config.json").write_text(json.dumps(config))
        weight_files.write(snapshot / "model.safetensors", dj.weights.to_torch(trained))
        return f"hf:{repository}"

    return add


def same_weights(one, other):
    ours, theirs = dj.weights.to_torch(one), dj.weights.to_torch(other)
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[k], theirs[k]) for k in ours)


def test_a_repository_describes_its_network(hub, trained):
    model = dj.load(hub("somebody/birds", CONFIG))
    assert same_weights(model, trained)
    crop = CentralCrop(37, 36, "bicubic")  # Rounded down from 36 / 0.95.
    assert model.preprocessing == Preprocessing(crop, (127.5, 102.0, 76.5), (51.0, 51.0, 25.5))
    assert model.classes == ("bird", "n1", "n2", "n3", "n4", "n5", "n6")


def test_predict_takes_the_name_of_a_repository(hub, trained):
    source = hub("somebody/birds", CONFIG)
    found = dj.predict(source, PICTURE, top=7)
    assert {p.name for p in found} == {"bird", "n1", "n2", "n3", "n4", "n5", "n6"}
    [again] = dj.predict(dj.load(source), [PICTURE], top=7, batch_size=1)
    assert found == again


def test_published_weights_come_by_name(hub, monkeypatch, trained):
    monkeypatch.setitem(pretrained.REPOSITORIES, NAME, ("a/x.ra_in1k", "a/x.tv_in1k"))
    hub("a/x.ra_in1k", CONFIG)
    hub("a/x.tv_in1k", CONFIG | {"label_names": None})
    assert same_weights(dj.create_model(NAME, pretrained=True), trained)
    assert dj.create_model(NAME, pretrained="ra_in1k").classes[0] == "bird"
    assert dj.create_model(NAME, pretrained="tv_in1k").classes is None
    assert dj.load(NAME).classes[0] == "bird"
    assert dj.load(f"{NAME}.tv_in1k").classes is None
    with pytest.raises(dj.InputError, match=r"has no weights 'tw_in1k': did you mean 'tv_in1k'"):
        dj.create_model(NAME, pretrained="tw_in1k")


def test_other_classes_have_a_new_classifier(hub, monkeypatch, trained, caplog):
    monkeypatch.setitem(pretrained.REPOSITORIES, NAME, ("a/x.ra_in1k",))
    hub("a/x.ra_in1k", CONFIG)
    model = dj.create_model(NAME, pretrained=True, num_classes=3, rngs=nnx.Rngs(5))
    assert "the classifier stays new" in caplog.text
    assert model.classifier.kernel.shape[1] == 3 and model.classes is None
    np.testing.assert_array_equal(model.conv0.kernel[...], trained.conv0.kernel[...])
    new = dj.create_model(NAME, num_classes=3, rngs=nnx.Rngs(5))
    np.testing.assert_array_equal(model.classifier.kernel[...], new.classifier.kernel[...])


def test_networks_without_published_weights():
    with pytest.raises(dj.InputError, match="densenet264 has no published weights: choose one of"):
        dj.load("densenet264")
    with pytest.raises(dj.InputError, match="there is no model 'densenet12': did you mean"):
        dj.load("densenet12")
    with pytest.raises(dj.InputError, match="densenet264 has no published weights: choose one of"):
        dj.create_model("densenet264", pretrained=True)
    with pytest.raises(dj.InputError, match="there is no model 'densenet122'"):
        dj.create_model("densenet122", pretrained=True)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"architecture": "resnet50d"}, "there is no model 'resnet50d'"),
        ({"global_pool": "max"}, "its global_pool is 'max', not 'avg'"),
        ({"model_args": {"blur": True}}, "has no setting 'blur'"),
        ({"pooling": "attention"}, "it has the unknown key 'pooling'"),
        ({"crop_mode": "squash"}, "its crop is squash of 36 x 36 pixels, not a central square"),
        ({"test_input_size": [3, 36, 40]}, "its crop is center of 36 x 40 pixels"),
        ({"interpolation": "lanczos"}, "interpolation is 'lanczos'"),
        ({"resize_mode": "longest"}, "it has the unknown key 'resize_mode'"),
        ({"label_offset": 1}, "it has a label_offset"),
        ({"mean": "grey"}, "its mean is 'grey', not a number for each channel"),
        ({"mean": [0.5]}, r"its mean is \[0.5\], not a number for each channel"),
        ({"mean": {"1": 1, "2": 2, "3": 3}}, "its mean is .*, not a number for each channel"),
        ({"mean": [0.1, 0.1, 1e300]}, "mean is .*e.302"),
        ({"std": [0.1, 0.1, 0]}, "std is "),
        ({"std": [0.1, 0.1, -1]}, "std is "),
        ({"std": [0.1, 0.1, float("nan")]}, "std is "),
        ({"std": [0.1, 0.1, "a"]}, "std is "),
        ({"std": [0.1, 0.1, True]}, "std is "),
        ({"std": []}, r"its std is \[\]"),
        ({"input_size": None}, "its input_size is None"),
        ({"input_size": []}, r"its input_size is \[\]"),
        ({"test_input_size": [3, 36.5, 36.5]}, "not three positive whole numbers"),
        ({"test_crop_pct": 1.5}, "its crop_pct is 1.5, not a number above 0 and at most 1"),
        ({"test_crop_pct": 0, "crop_pct": 0}, "its crop_pct is 0, not"),
        ({"test_crop_pct": -1}, "its crop_pct is -1, not"),
        ({"architecture": None}, "its architecture is None, not a name"),
        ({"architecture": ["a"]}, r"its architecture is \['a'\], not a name"),
        ({"model_args": {"name": "a"}}, "has no setting 'name'"),
        ({"model_args": {"rngs": "a"}}, "has no setting 'rngs'"),
        ({"model_args": {"growth_rate": "a"}}, "growth_rate is 'a': it must be of type int"),
        ({"label_names": ["a"] * 8}, "its label_names has 8 names for 7 classes"),
        ({"label_names": "abcdefg"}, "its label_names is not a list of names"),
        ({"label_names": [None] * 7}, "its label_names is not a list of names"),
        ({"label_names": {"1": "a"}}, "it has no '0'"),
        ({"label_descriptions": [1]}, "its label_descriptions is not an object"),
    ],
)
def test_configs_that_are_refused(hub, changes, words):
    config = CONFIG | {key: value for key, value in changes.items() if key in CONFIG}
    inner = {key: value for key, value in changes.items() if key not in CONFIG}
    if inner.keys() & {"pooling", "model_args"}:  # Not in CONFIG, and at the top.
        config |= inner
    else:
        config |= {"pretrained_cfg": CONFIG["pretrained_cfg"] | inner}
    with pytest.raises(dj.InputError, match=words):
        dj.load(hub("somebody/birds", config))


def test_class_names_by_label_and_in_old_files(hub):
    by_label = {str(i): f"n{i}" for i in reversed(range(7))}
    model = dj.load(hub("somebody/a", CONFIG | {"label_names": by_label}))
    assert model.classes == ("bird", "n1", "n2", "n3", "n4", "n5", "n6")
    old = {k: v for k, v in CONFIG.items() if k not in ("label_names", "pretrained_cfg")}
    old |= CONFIG["pretrained_cfg"] | {"labels": CONFIG["label_names"]}
    model = dj.load(hub("somebody/b", old))
    assert model.classes[0] == "bird" and model.preprocessing.crop.size == 36


def test_weights_of_another_network_under_a_published_name(hub, monkeypatch):
    monkeypatch.setitem(pretrained.REPOSITORIES, "densenet121", ("a/x.ra_in1k",))
    hub("a/x.ra_in1k", CONFIG)
    with pytest.raises(dj.InputError, match=f"has a {NAME}, not a densenet121"):
        dj.create_model("densenet121", pretrained=True)


def test_a_wrong_config_can_be_passed_over(hub, tmp_path, trained):
    """The message of a wrong config.json advises to name the weights file and its network."""
    weight_files.write(tmp_path / "model.safetensors", dj.weights.to_torch(trained))
    config = CONFIG | {"pretrained_cfg": CONFIG["pretrained_cfg"] | {"test_crop_pct": 2}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(dj.InputError, match="name the weights file and its network"):
        dj.load(tmp_path)
    model = dj.load(tmp_path / "model.safetensors", NAME, num_classes=7)
    assert same_weights(model, trained) and model.preprocessing is None


@pytest.mark.parametrize("source", [None, 3, "", "x" * 5000, "a\0b", "nowhere/", "nowhere.pth"])
def test_sources_that_are_none(source):
    with pytest.raises(dj.InputError, match=r"source of a network|there is no (weights|model)"):
        dj.load(source)


@pytest.mark.parametrize("arguments", [{"name": None}, {"name": 3}, {"name": ["densenet121"]},
                                       {"name": "densenet121", "pretrained": 1}])  # fmt: skip
def test_models_that_are_none(arguments):
    with pytest.raises(dj.InputError, match=r"the name of a network is|pretrained is 1"):
        dj.create_model(**arguments)


@pytest.mark.parametrize("size", [64, 128, 224, 288, 384])
def test_a_written_crop_is_read_back(size):
    for resize in range(size, 2 * size + 40):
        crop = CentralCrop(resize, size)
        content = timm_config.write(
            timm_config.TimmConfig(NAME, {"num_classes": 3}, Preprocessing(crop), None)
        )
        assert timm_config.preprocessing(json.loads(content)["pretrained_cfg"]).crop == crop


def test_damaged_and_large_configs(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text('{"architecture": ')
    with pytest.raises(dj.InputError, match=r"config\.json cannot be used"):
        timm_config.read(path)
    path.write_text(json.dumps(CONFIG))
    monkeypatch.setattr(timm_config, "MAX_CONFIG_BYTES", path.stat().st_size)
    assert timm_config.read(path).architecture == NAME
    monkeypatch.setattr(timm_config, "MAX_CONFIG_BYTES", path.stat().st_size - 1)
    with pytest.raises(dj.InputError, match=r"config\.json"):
        timm_config.read(path)
    path.write_text('{"epochs": 3}')  # The config.json of a run.
    monkeypatch.undo()
    assert timm_config.read(path) is None


def test_a_written_config_is_read_back(tmp_path):
    crop = CentralCrop(303, 288, "bicubic")
    settings = {"num_classes": 7, "in_channels": 1, "growth_rate": 8}
    config = timm_config.TimmConfig(NAME, settings, Preprocessing(crop, (9.0,), (3.0,)), ("a",) * 7)
    (tmp_path / "config.json").write_text(timm_config.write(config))
    found = timm_config.read(tmp_path / "config.json")
    assert found._replace(preprocessing=None) == config._replace(preprocessing=None)
    assert found.preprocessing.crop == crop
    assert found.preprocessing.mean == pytest.approx((9.0,))


def test_without_a_network_the_command_to_type_is_told(hub, capsys, tmp_path):
    hub("somebody/else", CONFIG)
    for argv in (["--weights=densenet121"], ["--weights=pretrained", "--model=densenet121"]):
        assert command.run(launch_predict.main, ["a.jpg", "--compile_cache=off", *argv]) == 2
        assert "there is no picture 'a.jpg'" in capsys.readouterr().err
        argv += [str(save_picture(tmp_path)), "--compile_cache=off"]
        assert command.run(launch_predict.main, argv) == 2
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1
        assert "hf:timm/densenet121.ra_in1k is not in the local cache and cannot be" in errors
    argv = [str(save_picture(tmp_path)), "--weights=pretrained", "--compile_cache=off"]
    assert command.run(launch_predict.main, argv) == 2
    assert "--weights pretrained needs --model" in capsys.readouterr().err


def save_picture(directory):
    from PIL import Image

    path = directory / "picture.png"
    Image.fromarray(PICTURE).save(path)
    return path


@pytest.mark.parametrize(
    "name, model, crop",
    [
        ("densenet121-a639ec97.pth", "densenet121", CentralCrop(256, 224, "bilinear")),
        ("densenet121.tv_in1k.safetensors", "densenet121", CentralCrop(256, 224, "bicubic")),
        ("densenet121.ra_in1k.safetensors", "densenet121", CentralCrop(303, 288, "bicubic")),
        ("resnet50.tv_in1k.pth", "resnet50", CentralCrop(256, 224, "bilinear")),
        ("resnet50.a1_in1k.safetensors", "resnet50", None),  # A recipe with another crop.
        ("rdnet_tiny.safetensors", "rdnet_tiny", CentralCrop(248, 224, "bicubic")),
        ("densenet.pth", "densenet_bc_k12_d100", None),  # Not a network for ImageNet.
        ("nin.pth", "nin", None),
    ],
)
def test_thepreprocessing_of_files(tmp_path, name, model, crop):
    found = pretrained.preprocessing_of_file(tmp_path / "tv_in1k" / name, model_config(model))
    assert found == (crop and Preprocessing(crop))
