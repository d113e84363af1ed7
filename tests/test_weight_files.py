"""Files of weights, whole and otherwise."""

import os
import pickle

import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

import densenet_jax as dj
from densenet_jax import weight_files


def model(seed):
    return dj.create_model("densenet_bc_k12_d10", growth_rate=4, rngs=nnx.Rngs(seed))


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        np.testing.assert_array_equal(array, other[name])


def test_a_model_is_loaded_from_a_file(tmp_path):
    arrays = dj.weights.to_torch(model(0))
    save_file({k: np.ascontiguousarray(a) for k, a in arrays.items()}, tmp_path / "a.safetensors")
    loaded = model(1)
    dj.weights.load_torch(loaded, str(tmp_path / "a.safetensors"))
    assert_equal(dj.weights.to_torch(loaded), arrays)


def test_halves_are_read(tmp_path):
    arrays = {"a": np.arange(3, dtype=np.float16), "b": np.arange(3).astype(ml_dtypes.bfloat16)}
    save_file(arrays, tmp_path / "a.safetensors")
    assert_equal(weight_files.read(tmp_path / "a.safetensors"), arrays)


class Trap:
    """What unpickling turns into a new folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_not_run(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.ones(3), "b": Trap(tmp_path / "sprung")}, tmp_path / "zip.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    for name in ("zip.pth", "bare.pth"):
        with pytest.raises(dj.InputError, match=f"{name} holds no weights that can be read"):
            weight_files.read(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_files_that_pytorch_wrote(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    torch.save(arrays, tmp_path / "a.pth")
    expected = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float32)}
    assert_equal(weight_files.read(tmp_path / "a.pth"), expected)
    torch.save([torch.ones(3)], tmp_path / "list.pth")
    with pytest.raises(dj.InputError, match="no dict of tensors"):
        weight_files.read(tmp_path / "list.pth")


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@pytest.mark.parametrize("kind", ["empty", "cut short", "text", "a vast header"])
def test_damaged_files(tmp_path, ending, kind):
    if ending == ".pth":
        torch = pytest.importorskip("torch")
        torch.save({"a": torch.ones(1000)}, tmp_path / "whole.pth")
    else:
        save_file({"a": np.ones(1000, np.float32)}, tmp_path / "whole.safetensors")
    whole = (tmp_path / f"whole{ending}").read_bytes()
    content = {
        "empty": b"",
        "cut short": whole[: len(whole) // 2],
        "text": b"<html>404 not found</html>",
        "a vast header": b"\xff" * 8 + whole[8:],
    }[kind]
    path = tmp_path / f"damaged{ending}"
    path.write_bytes(content)
    before = dj.weights.to_torch(network := model(0))
    with pytest.raises(dj.InputError) as caught:
        dj.weights.load_torch(network, path)
    assert str(caught.value).startswith(f"{path} holds no weights that can be read (")
    assert "\n" not in str(caught.value)
    assert_equal(dj.weights.to_torch(network), before)


def test_what_is_no_file_of_weights(tmp_path):
    with pytest.raises(dj.InputError, match=r"there is no weights file .*missing\.safetensors"):
        weight_files.read(tmp_path / "missing.safetensors")
    with pytest.raises(dj.InputError, match=r"weights are read from \.safetensors, \.pth"):
        weight_files.read(tmp_path / "weights.h5")


def test_a_written_file_comes_back(tmp_path):
    arrays = dj.weights.to_torch(model(0))
    weight_files.write(tmp_path / "a.safetensors", arrays)
    assert_equal(weight_files.read(tmp_path / "a.safetensors"), arrays)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_hubs_cache_is_used(tmp_path, monkeypatch):
    """As timm or anybody else left it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--somebody--densenet"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123abc")
    (folder / "snapshots" / "0123abc").mkdir(parents=True)
    arrays = dj.weights.to_torch(model(0))
    weight_files.write(folder / "snapshots" / "0123abc" / "model.safetensors", arrays)
    assert_equal(weight_files.read("hf:somebody/densenet"), arrays)


def test_a_hub_that_cannot_be_reached(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://127.0.0.1:1")
    with pytest.raises(dj.InputError, match=r"hf:a/b is not in the local cache, and 127\.0\.0\.1"):
        weight_files.read("hf:a/b")
    with pytest.raises(dj.InputError, match="hf:a b names no repository"):
        weight_files.read("hf:a b")


def test_weights_inside_a_training_checkpoint(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = {"a": torch.ones(3)}
    for name in ("state_dict", "model"):
        torch.save({name: arrays, "epoch": 90}, tmp_path / "checkpoint.pth")
        assert_equal(weight_files.read(tmp_path / "checkpoint.pth"), {"a": np.ones(3, np.float32)})
