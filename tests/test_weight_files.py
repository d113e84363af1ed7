"""Reading and writing files of weights. Most of these tests need no PyTorch."""

import io
import pickle
import socket
import tarfile
import time
import zipfile

import hub_cache
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

import densenet_jax as dj
from densenet_jax import hub, weight_files


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


REBUILD = b"\x80\x02}(X\x01\x00\x00\x00actorch._utils\n%s\n"
STORAGE = (
    b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06"
)


def torch_file(path, shape=(2, 3), strides=(3, 1), beside=b"N"):
    """Writes the file of `torch.save` for {"a": a tensor of 0 to 5, "b": the pickle `beside`}."""
    shape, strides = (pickle.dumps(numbers, 2)[2:-1] for numbers in (shape, strides))
    content = (
        REBUILD % b"_rebuild_tensor_v2"
        + STORAGE
        + (b"tQK\x00" + shape + strides + b"\x89ccollections\n")
        + b"OrderedDict\n)RtRX\x01\x00\x00\x00b"
        + (beside + b"u.")
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", np.arange(6, dtype=np.float32).tobytes())
    return path


def test_files_of_pytorch_are_read_without_pytorch(tmp_path, caplog):
    found = weight_files.read(torch_file(tmp_path / "a.pth"))
    assert_equal(found, {"a": np.arange(6, dtype=np.float32).reshape(2, 3)})
    assert "ignored entries that are not named tensors (1): b" in caplog.text
    found = weight_files.read(torch_file(tmp_path / "a.pth", (3, 2), (1, 3)))
    np.testing.assert_array_equal(found["a"], np.arange(6).reshape(2, 3).T)


def old_file(path, little_endian=True):
    """Writes a file of PyTorch 0.3: a view of 6 numbers from the second on, without version 2."""
    view = b"X\x01\x00\x00\x00vK\x01K\x04\x87tQ"
    content = REBUILD % b"_rebuild_tensor" + STORAGE + view + b"K\x01K\x03\x85K\x01\x85tRu."
    machine = {"little_endian": little_endian}
    header = map(pickle.dumps, (0x1950A86A20F9469CFC6C, 1001, machine))
    storages = pickle.dumps(["0"]) + (6).to_bytes(8, "little")
    numbers = np.arange(6, dtype=np.float32).tobytes()
    path.write_bytes(b"".join(header) + content + storages + numbers)
    return path


def test_a_view_of_a_storage_in_an_old_file(tmp_path):
    found = weight_files.read(old_file(tmp_path / "a.pth"))
    assert_equal(found, {"a": np.array([2, 3, 4], np.float32)})


def test_big_endian_numbers_are_refused(tmp_path):
    files = [old_file(tmp_path / "old.pth", little_endian=False), torch_file(tmp_path / "a.pth")]
    with zipfile.ZipFile(files[1], "a") as archive:
        archive.writestr("archive/byteorder", "big")
    for path in files:
        with pytest.raises(dj.InputError, match="its numbers are big-endian"):
            weight_files.read(path)


@pytest.mark.parametrize(
    "shape, strides",
    [((3, 3), (3, 1)), ((7,), (1,)), ((2,), (-1,)), ((5, 2), (2**62, 1)), ((2**62,), (4,))],
)
def test_no_memory_beside_a_tensor_is_read(tmp_path, shape, strides):
    path = torch_file(tmp_path / "a.pth", shape, strides)
    with pytest.raises(dj.InputError, match="the numbers of a are cut off"):
        weight_files.read(path)


MAKE_DIRECTORY = b"c%s\nmkdir\nX%c\x00\x00\x00%s\x85R"


@pytest.mark.parametrize("module", [b"os", b"posix", b"nt"])
def test_code_in_a_file_is_not_run(tmp_path, monkeypatch, module):
    monkeypatch.chdir(tmp_path)
    trap = MAKE_DIRECTORY % (module, len("sprung"), b"sprung")
    assert weight_files.read(torch_file(tmp_path / "a.pth", beside=trap)).keys() == {"a"}
    (tmp_path / "bare.pth").write_bytes(b"\x80\x02" + trap + b".")
    with pytest.raises(dj.InputError, match=r"bare\.pth holds no weights that can be read"):
        weight_files.read(tmp_path / "bare.pth")
    assert not (tmp_path / "sprung").exists()
    if module == b"os":
        pickle.loads(b"\x80\x02" + trap + b".")  # The trap works if code in pickles runs.
        assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["OrderedDict", "_rebuild_tensor_v2", "_rebuild_parameter"])
def test_a_file_does_not_change_how_the_next_is_read(tmp_path, name):
    module = "collections" if name == "OrderedDict" else "torch._utils"
    # Sets __defaults__ of the object that the file gets under this name.
    beside = f"c{module}\n{name}\n".encode() + b"N}X\x0c\x00\x00\x00__defaults__)s\x86b"
    try:
        weight_files.read(torch_file(tmp_path / "a.pth", beside=beside))
    except dj.InputError as error:
        assert "immutable type" in str(error) and name == "OrderedDict"
    weight_files.read(torch_file(tmp_path / "b.pth"))


def test_files_that_pytorch_wrote(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    torch.save(arrays, tmp_path / "a.pth")
    expected = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float32)}
    assert_equal(weight_files.read(tmp_path / "a.pth"), expected)
    torch.save([torch.ones(3)], tmp_path / "list.pth")
    with pytest.raises(dj.InputError, match="not a dict of tensors"):
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


def test_a_missing_file(tmp_path):
    with pytest.raises(dj.InputError, match=r"there is no weights file .*missing\.safetensors"):
        weight_files.read(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("name", ["a.pth", "a.ckpt", "a.pth.tar", "a.dat", "a"])
def test_a_safetensors_file_of_another_name(tmp_path, name):
    save_file({"a": np.ones(3, np.float32)}, tmp_path / name)
    assert_equal(weight_files.read(tmp_path / name), {"a": np.ones(3, np.float32)})


def written(write, content):
    file = io.BytesIO()
    write(file, content)
    return file.getvalue()


def zip_of(name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr(name, b"")
    return file.getvalue()


USE = "use a .safetensors file or a state dict from torch.save"


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "(it is empty): download it again"),
        (b"\n<!DOCTYPE html>", "(it is a web page): download the file itself"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\n",
            "(it is a Git LFS pointer): run `git lfs pull`",
        ),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), f"(it is an HDF5 file): {USE}"),
        (b"\x08\x07\x12\x07pytorch\x1a\x03", f"(it is an ONNX file): {USE}"),
        (
            written(np.savez, np.ones(3)),
            "(it is an archive of NumPy arrays): write them with safetensors.numpy.save_file",
        ),
        (written(np.save, np.ones(3)), f"(it is a NumPy array): {USE}"),
        (
            tarfile.TarInfo("a").tobuf(),
            "(it is a tar archive): unpack it",
        ),
        (b"\x1f\x8b\x08" + bytes(100), "(it is compressed): unpack it"),
        (
            zip_of("a/densenet.pth"),
            "(it is a zip archive of a/densenet.pth): unpack it and name the file with weights",
        ),
        (zip_of("a/constants.pkl"), "(it is a TorchScript archive): save the state_dict() of"),
        (b"PK\x03\x04" + bytes(100), "(it is a zip archive that is cut off): download it again"),
        (b'{"model": 1}', f"(it begins with b'{{\"model\": 1}}'): {USE}"),
        (
            pickle.dumps({"a": 1}),
            "(it is a pickle that torch.save did not write): save model.state",
        ),
        (b"\x80\x02X\x03\x00\x00", "(it is cut off): download it again"),
        (b"\x80\x02X\x03\x00\x00\x00abc", "(it is cut off): download it again"),
    ],
)
def test_other_files(tmp_path, content, words):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(dj.InputError) as caught:
        weight_files.read(path)
    assert str(caught.value).startswith(f"{path} holds no weights that can be read {words}")


def test_a_long_reason_is_cut_between_words_and_is_plain_text(tmp_path):
    """The name of a storage type comes from the file."""
    kind = "\x1b[31m" + " ".join(["word"] * 100)
    path = torch_file(tmp_path / "a.pth")
    with zipfile.ZipFile(path) as whole:
        content = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w") as changed:
        for name, data in content.items():
            changed.writestr(name, data.replace(b"FloatStorage", kind.encode()))
    with pytest.raises(dj.InputError) as caught:
        weight_files.read(path)
    reason = str(caught.value).removeprefix(f"{path} holds no weights that can be read ")
    assert reason.startswith("(it holds numbers of the type word word")
    assert reason.endswith("word word ...): save them as float32") and len(reason) < 230


def test_a_written_file_is_read_back(tmp_path):
    arrays = dj.weights.to_torch(model(0))
    weight_files.write(tmp_path / "a.safetensors", arrays)
    assert_equal(weight_files.read(tmp_path / "a.safetensors"), arrays)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_hubs_cache_is_used(tmp_path, monkeypatch):
    """Any program may have filled the cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = hub_cache.add_repository(tmp_path, "somebody/densenet")
    arrays = dj.weights.to_torch(model(0))
    weight_files.write(snapshot / "model.safetensors", arrays)
    assert_equal(weight_files.read("hf:somebody/densenet"), arrays)


def test_a_hub_that_cannot_be_reached(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://127.0.0.1:1")
    with pytest.raises(
        dj.InputError, match=r"hf:a/b is not in the local cache .* from 127\.0\.0\.1"
    ):
        weight_files.read("hf:a/b")
    with pytest.raises(dj.InputError, match="hf:a b names no repository"):
        weight_files.read("hf:a b")


def test_weights_inside_a_training_checkpoint(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = {"a": torch.ones(3)}
    for name in ("state_dict", "model"):
        torch.save({name: arrays, "epoch": 90}, tmp_path / "checkpoint.pth")
        assert_equal(weight_files.read(tmp_path / "checkpoint.pth"), {"a": np.ones(3, np.float32)})


def test_a_hub_that_does_not_answer(tmp_path, monkeypatch):
    """A proxy that accepts no connection stands before the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        held = [socket.socket() for _ in range(4)]  # Fill the queue of connections.
        for sock in held:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        started = time.monotonic()
        with pytest.raises(dj.InputError, match=r"cannot be downloaded from huggingface\.co"):
            weight_files.read("hf:a/b")
        assert time.monotonic() - started < 2
        for sock in held:
            sock.close()
