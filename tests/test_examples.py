"""The Python examples of the pages run as typed."""

import json
import re

import hub_cache
import numpy as np
import pytest
import small
from flax import nnx
from PIL import Image
from sklearn.datasets import load_sample_images

import densenet_jax as dj
from densenet_jax import timm_config, weight_files
from densenet_jax.data.pictures import CentralCrop, Preprocessing

PAGES = sorted(
    path
    for path in small.ROOT.rglob("*.md")
    if "```python" in path.read_text() and not {".venv", "runs"} & set(path.parts)
)


def examples(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A cache of the hub with untrained weights of DenseNet-121."""
    cache = tmp_path_factory.mktemp("hub")
    snapshot = hub_cache.add_repository(cache, "timm/densenet121.ra_in1k")
    preprocessing = Preprocessing(CentralCrop(303, 288, "bicubic"))
    config = timm_config.TimmConfig("densenet121", {"num_classes": 1000}, preprocessing, None)
    (snapshot / "config.json").write_text(timm_config.write(config))
    network = dj.create_model("densenet121", rngs=nnx.Rngs(0))
    weight_files.write(snapshot / "model.safetensors", dj.weights.to_torch(network))
    return cache


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(small.ROOT)))
def test_examples_run(page, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(small.ROOT / "experiments")
    Image.fromarray(load_sample_images().images[0]).save("cat.jpg")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("digit.png")
    for code in examples(page):
        names = {}
        exec(compile(code, str(page), "exec"), names)
        if "get_config" in names:
            assert json.loads(names["get_config"]().to_json_best_effort())
