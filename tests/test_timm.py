"""Preprocessing and published weights against timm, if it is installed."""

import json
import math

import numpy as np
import pytest
from flax import nnx
from PIL import Image
from safetensors.numpy import save_file
from sklearn.datasets import load_sample_images

import densenet_jax as dj
from densenet_jax import pretrained, timm_config
from densenet_jax.data.pictures import CentralCrop, Preprocessing

timm = pytest.importorskip("timm")


def evaluation_configs():
    """Yields the name and the config of all pretrained weights of timm's families."""
    for pattern in ("densenet*", "rdnet*", "resnet*"):
        for name in timm.list_models(pattern, pretrained=True):
            yield name, timm.get_pretrained_cfg(name).to_dict()


def test_every_config_of_timm_gives_its_preprocessing():
    count = 0
    for name, config in evaluation_configs():
        stored = json.loads(json.dumps({k: v for k, v in config.items() if v is not None}))
        found = timm_config.preprocessing(stored)
        expected = timm.data.resolve_data_config(pretrained_cfg=config, use_test_size=True)
        size = expected["input_size"][1]
        assert found.crop.size == size, name
        assert found.crop.resize == math.floor(size / expected["crop_pct"]), name
        assert found.crop.interpolation == expected["interpolation"], name
        for ours, theirs in ((found.mean, expected["mean"]), (found.std, expected["std"])):
            np.testing.assert_allclose(ours, 255 * np.array(theirs), rtol=1e-12, err_msg=name)
        count += 1
    assert count > 100


def photographs():
    china, flower = map(Image.fromarray, load_sample_images().images)
    return [china, flower, china.rotate(90, expand=True), flower.resize((301, 299)),
            china.crop((10, 20, 300, 420)).convert("L").convert("RGB")]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["densenet121.ra_in1k", "densenet121.tv_in1k", "rdnet_tiny.nv_in1k", "resnet50.tv_in1k",
     "rdnet_large.nv_in1k_ft_in1k_384"],
)  # fmt: skip
def test_pixels_are_those_of_timms_transforms(name):
    config = timm.get_pretrained_cfg(name).to_dict()
    ours = timm_config.preprocessing({k: v for k, v in config.items() if v is not None})
    options = timm.data.resolve_data_config(pretrained_cfg=config, use_test_size=True)
    theirs = timm.data.create_transform(**options, is_training=False)
    for picture in photographs():
        found = (ours.crop(picture) - np.float32(ours.mean)) / np.float32(ours.std)
        expected = theirs(picture).numpy().transpose(1, 2, 0)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_every_repository_is_one_of_timms():
    for name, repositories in pretrained.REPOSITORIES.items():
        for repository in repositories:
            weights = repository.partition("/")[2]
            assert weights.partition(".")[0] == name
            assert timm.get_pretrained_cfg(weights).hf_hub_id == repository


def test_a_network_that_timm_saved(tmp_path):
    """As `timm.models.push_to_hf_hub` writes it."""
    theirs = timm.create_model("densenet121", num_classes=3, in_chans=1)
    timm.models.save_for_hf(
        theirs, tmp_path, model_config={"label_names": ["a", "b", "c"]}, safe_serialization=True
    )
    model = dj.load(tmp_path)
    assert model.classes == ("a", "b", "c") and model.config.in_channels == 1
    assert model.preprocessing.crop.size == 288
    assert model.preprocessing.mean == pytest.approx((255 * 0.449,))
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    expected = dj.create_model("densenet121", num_classes=3, in_channels=1, rngs=nnx.Rngs(0))
    dj.weights.load_torch(expected, state)
    ours, others = dj.weights.to_torch(model), dj.weights.to_torch(expected)
    assert all(np.array_equal(ours[name], others[name]) for name in others)


def test_an_exported_config_is_read_by_timm(tmp_path):
    model = dj.create_model("densenet121", num_classes=4, rngs=nnx.Rngs(0))
    preprocessing = Preprocessing(CentralCrop(248, 224, "bicubic"), (9.0, 8.0, 7.0))
    config = timm_config.TimmConfig("densenet121", {"num_classes": 4}, preprocessing, ("a",) * 4)
    (tmp_path / "config.json").write_text(timm_config.write(config))
    save_file(dj.weights.to_torch(model), tmp_path / "model.safetensors")
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    options = timm.data.resolve_model_data_config(theirs)
    assert options["mean"] == pytest.approx((9 / 255, 8 / 255, 7 / 255))
    assert math.floor(224 / options["crop_pct"]) == 248
    assert theirs.num_classes == 4
