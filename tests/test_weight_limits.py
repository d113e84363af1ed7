"""Limits of weights files: a file at the limit is read, a file beyond it is refused unread."""

import os
import struct
import zipfile

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file
from test_weight_files import MAKE_DIRECTORY, old_file, torch_file

import densenet_jax as dj
from densenet_jax import safetensors_files, torch_files, weight_files, weights


def refuse(path, message, **options):
    with pytest.raises(dj.InputError, match=message) as caught:
        weight_files.read(path, **options)
    assert "\n" not in str(caught.value)


def compressed(path, kind=zipfile.ZIP_DEFLATED, numbers=None):
    """Compresses a file of PyTorch with the storage `numbers` and returns the ratio."""
    with zipfile.ZipFile(torch_file(path)) as whole:
        content = {name: whole.read(name) for name in whole.namelist()}
    if numbers is not None:
        content["archive/data/0"] = numbers
    with zipfile.ZipFile(path, "w", kind) as changed:
        for name, data in content.items():
            changed.writestr(name, data)
    return sum(map(len, content.values())) / path.stat().st_size


def test_inflation_of_a_zip_archive(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    ratio = compressed(path, numbers=bytes(100_000))
    assert ratio > torch_files.MAX_INFLATION
    refuse(path, r"its [\d,]+ bytes unpack to 100,\d+, more than 10 times as many\): save")
    monkeypatch.setattr(torch_files, "MAX_INFLATION", ratio)
    assert weight_files.read(path)["a"].shape == (2, 3)
    monkeypatch.setattr(torch_files, "MAX_INFLATION", ratio - 0.01)
    refuse(path, "more than")


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(tmp_path, kind):
    """zipfile would unpack a whole piece of these, regardless of the length in the archive."""
    compressed(tmp_path / "a.pth", kind)
    refuse(tmp_path / "a.pth", "compressed in a way that torch.save does not use")


def test_bytes_of_the_pickle(tmp_path, monkeypatch):
    path = torch_file(tmp_path / "a.pth")
    with zipfile.ZipFile(path) as whole:
        size = whole.getinfo("archive/data.pkl").file_size
    monkeypatch.setattr(torch_files, "MAX_PICKLE_BYTES", size)
    weight_files.read(path)
    monkeypatch.setattr(torch_files, "MAX_PICKLE_BYTES", size - 1)
    refuse(path, f"its pickle has {size} bytes")


def test_bytes_of_the_tensors(tmp_path):
    save_file({"a": np.ones(6, np.float32)}, tmp_path / "a.safetensors")
    for path in (
        *(torch_file(tmp_path / "a.pth"), old_file(tmp_path / "old.pth")),
        tmp_path / "a.safetensors",
    ):
        assert weight_files.read(path, max_bytes=24).keys() == {"a"}
        refuse(path, "its tensors take 24 bytes, more than the limit of 23", max_bytes=23)


def test_a_network_bounds_the_bytes_of_its_tensors(tmp_path, monkeypatch):
    model = dj.create_model("densenet_bc_k4_d10", block_config=(1, 1), rngs=nnx.Rngs(0))
    arrays = weights.to_torch(model)
    path = tmp_path / "a.safetensors"
    weight_files.write(path, arrays)
    monkeypatch.setattr(weights, "_LEAST_MAX_BYTES", 0)
    weights.load_torch(model, path)
    needed = sum(array.nbytes for array in arrays.values())
    weight_files.write(path, arrays | {"other.weight": np.ones(4 * needed, np.float32)})
    with pytest.raises(dj.InputError, match=r"more than the limit .*: name the model that"):
        weights.load_torch(model, path)


def test_classes_in_a_pickle(tmp_path):
    def named(count):
        return b"](" + b"".join(b"cmodule\nname%d\n" % i for i in range(count)) + b"e"

    edge = torch_file(tmp_path / "a.pth", beside=named(torch_files.MAX_NAMES))
    weight_files.read(edge)
    refuse(torch_file(tmp_path / "b.pth", beside=named(1001)), "names more than 1,000 classes")


def test_tensors_that_repeat_numbers(tmp_path):
    """A view of 6 numbers can have any shape where a stride is 0."""
    for shape, strides in (((10**6, 10**6), (0, 0)), ((7,), (0,)), ((4, 3), (1, 1))):
        path = torch_file(tmp_path / "a.pth", shape, strides)
        refuse(path, r"a of shape \(.*\) repeats its numbers\): save tensors that are contiguous")


def test_a_negative_shape(tmp_path):
    refuse(torch_file(tmp_path / "a.pth", (-2, -3), (3, 1)), "the numbers of a are cut off")


def test_a_type_that_numpy_lacks(tmp_path):
    header = b'{"a":{"dtype":"F8_E5M2","shape":[1],"data_offsets":[0,1]}}'
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0")
    refuse(path, r"a type that NumPy lacks\): convert them to float32")


@pytest.mark.parametrize("claimed", [2**24 + 1, 2**63])
def test_header_of_safetensors(tmp_path, monkeypatch, claimed):
    path = tmp_path / "a.safetensors"
    save_file({"a": np.ones(6, np.float32)}, path)
    whole = path.read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    monkeypatch.setattr(safetensors_files, "MAX_HEADER_BYTES", size)
    weight_files.read(path)
    monkeypatch.setattr(safetensors_files, "MAX_HEADER_BYTES", size - 1)
    refuse(path, f"its header claims {size} bytes")
    monkeypatch.undo()
    path.write_bytes(struct.pack("<Q", claimed) + whole[8:])
    refuse(path, f"its header claims {claimed:,} bytes")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_paths_that_are_no_regular_files(tmp_path, name):
    os.mkfifo(tmp_path / name)
    refuse(tmp_path / name, f"{name} is a named pipe, not a regular file")
    (tmp_path / "directory").mkdir()
    refuse(tmp_path / "directory", "is a directory, not a regular file")
    refuse("/dev/zero", "is a device, not a regular file")


def test_code_is_named_and_not_looked_up(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trap = MAKE_DIRECTORY % (b"os", len("sprung"), b"sprung")
    weight_files.read(torch_file(tmp_path / "a.pth", beside=trap))
    assert "a.pth: holds code, calls of os.mkdir, which was not run" in caplog.text
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + trap + b".")
    refuse(tmp_path / "b.pth", "it holds code, calls of os.mkdir, which was not run, and no dict")
    (tmp_path / "c.pth").write_bytes(b"\x80\x02" + trap.replace(b"os\nmkdir", b"no_such\nx") + b".")
    refuse(tmp_path / "c.pth", r"holds code, calls of no_such\.x, which was not run\): save")
    assert not (tmp_path / "sprung").exists()


@pytest.fixture(scope="module")
def model():
    return dj.create_model("densenet_bc_k4_d10", block_config=(1, 1), rngs=nnx.Rngs(0))


CONV = "features.conv0.weight"


@pytest.mark.parametrize("dtype", ["complex64", "int8", "int64", "bool"])
def test_parameters_that_are_no_floats(model, dtype):
    arrays = weights.to_torch(model)
    with pytest.raises(dj.InputError, match=f"{CONV} has dtype {dtype} instead of a float: save"):
        weights.load_torch(model, arrays | {CONV: arrays[CONV].astype(dtype)})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({7: np.ones(1)}, "these weights have a key of type int: name arrays by strings"),
        ({None: np.ones(1)}, "these weights have a key of type NoneType"),
        ({CONV: [[1], [2, 3]]}, f"in these weights, {CONV} is not an array"),
        (
            {CONV: np.full((8, 3, 3, 3), np.nan)},
            f"NaN or infinite values in 1 of 32 arrays, {CONV}",
        ),
        ({CONV: np.full((8, 3, 3, 3), 1e300)}, f"NaN or infinite values in 1 of 32 arrays, {CONV}"),
        (
            {CONV: np.broadcast_to(np.float32(1), (10**6, 10**6))},
            rf"{CONV} has shape \(1000000, 1000000\) instead of \(8, 3, 3, 3\)",
        ),
    ],
)
def test_a_mapping_is_checked_as_a_file_is(model, changes, message):
    before = weights.to_torch(model)
    with pytest.raises(dj.InputError, match=message):
        weights.load_torch(model, before | changes)
    np.testing.assert_array_equal(weights.to_torch(model)[CONV], before[CONV])
