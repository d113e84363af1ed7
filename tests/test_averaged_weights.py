"""Averaged weights of training checkpoints, and half precision, in files of `torch.save`."""

import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file
from test_weight_files import REBUILD, STORAGE

import densenet_jax as dj
from densenet_jax import weight_files
from launch import command, predict

FORMATS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}


def in_dict(**items):
    """Returns the opcodes of a dict, given the opcodes of its values."""
    keys = {name: pickle.dumps(name, 2)[2:-1].partition(b"q\0")[0] for name in items}
    return b"}(" + b"".join(keys[name] + opcodes for name, opcodes in items.items()) + b"u"


def tensor(first):
    """Returns the opcodes of three numbers of the storage, from the number `first` on."""
    prefix = REBUILD % b"_rebuild_tensor_v2"
    build = prefix[prefix.index(b"ctorch") :]
    shape, strides = (pickle.dumps(numbers, 2)[2:-1] for numbers in ((3,), (1,)))
    offset = b"tQK%c" % first + shape + strides
    return build + STORAGE + offset + b"\x89ccollections\nOrderedDict\n)RtR"


def checkpoint(path, storage=b"FloatStorage", dtype=np.float32, **items):
    content = b"\x80\x02" + in_dict(**items) + b"."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content.replace(b"FloatStorage", storage))
        archive.writestr("archive/data/0", np.arange(9).astype(dtype).tobytes())
    return path


PLAIN = in_dict(**{"module.a": tensor(0)})
AVERAGED = in_dict(**{"module.a": tensor(3)})


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema"])
def test_averaged_weights_are_read_if_asked_for(key, tmp_path, caplog):
    items = {"state_dict": PLAIN, key: AVERAGED, "epoch": b"K\x07"}
    path = checkpoint(tmp_path / "a.pth", **items)
    np.testing.assert_array_equal(weight_files.read(path)["module.a"], [0, 1, 2])
    np.testing.assert_array_equal(weight_files.read(path, ema=True)["module.a"], [3, 4, 5])
    assert caplog.messages == [
        f"{path}: read the weights under state_dict, not those under {key}; ema=True or --ema "
        "reads averaged weights",
        f"{path}: read the weights under {key}, not those under state_dict",
    ]


def test_averaged_weights_one_level_down(tmp_path, caplog):
    path = checkpoint(tmp_path / "a.pth", model=PLAIN, ema=in_dict(state_dict=AVERAGED))
    np.testing.assert_array_equal(weight_files.read(path, ema=True)["module.a"], [3, 4, 5])
    assert caplog.messages == [
        f"{path}: read the weights under ema.state_dict, not those under model"
    ]


def test_a_file_of_averaged_weights_only(tmp_path, caplog):
    path = checkpoint(tmp_path / "a.pth", ema=AVERAGED)
    for ema in (False, True):
        np.testing.assert_array_equal(weight_files.read(path, ema=ema)["module.a"], [3, 4, 5])
    assert caplog.messages == []


def test_a_file_without_averaged_weights(tmp_path):
    path = checkpoint(tmp_path / "a.pth", state_dict=PLAIN, epoch=b"K\x07")
    with pytest.raises(dj.InputError) as caught:
        weight_files.read(path, ema=True)
    assert str(caught.value) == (
        f"{path} has no averaged weights under ema, model_ema, state_dict_ema, only 'state_dict', "
        "'epoch': remove ema=True or --ema"
    )


def test_other_sources_have_no_averaged_weights(tmp_path):
    save_file({"a": np.ones(3, np.float32)}, path := tmp_path / "a.safetensors")
    with pytest.raises(
        dj.InputError, match=r"is in safetensors format, .*: remove ema=True or --ema"
    ):
        weight_files.read(path, ema=True)
    model = dj.create_model("densenet_bc_k4_d10", rngs=nnx.Rngs(0))
    with pytest.raises(dj.InputError, match="a mapping has no averaged weights beside others: "):
        dj.weights.load_torch(model, dj.weights.to_torch(model), ema=True)


@pytest.mark.parametrize("format", FORMATS)
def test_averaged_weights_of_a_network(format, tmp_path):
    """torchvision's script stores an AveragedModel."""
    torch = pytest.importorskip("torch")
    model = dj.create_model("densenet_bc_k4_d10", rngs=nnx.Rngs(0))
    arrays = dj.weights.to_torch(model)
    plain = {name: torch.tensor(array) for name, array in arrays.items()}
    averaged = {f"module.{name}": tensor + 1 for name, tensor in plain.items()}
    content = {"model": plain, "model_ema": averaged | {"n_averaged": torch.tensor(3)}}
    torch.save(content, tmp_path / "a.pth", **FORMATS[format])
    for ema in (False, True):
        dj.weights.load_torch(model, tmp_path / "a.pth", ema=ema)
        for name, array in dj.weights.to_torch(model).items():
            np.testing.assert_array_equal(array, arrays[name] + ema)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_half_precision(kind, ending, tmp_path):
    path = tmp_path / f"a{ending}"
    if ending == ".pth":
        storage = b"HalfStorage" if kind == np.float16 else b"BFloat16Storage"
        checkpoint(path, storage, kind, state_dict=PLAIN)
    else:
        weight_files.write(path, {"module.a": np.arange(3).astype(kind)})
    found = weight_files.read(path)["module.a"]
    np.testing.assert_array_equal(found.astype(np.float32), [0, 1, 2])


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_the_type_of_the_network(kind, tmp_path):
    model = dj.create_model("densenet_bc_k4_d10", rngs=nnx.Rngs(0))
    arrays = {name: array.astype(kind) for name, array in dj.weights.to_torch(model).items()}
    weight_files.write(tmp_path / "a.safetensors", arrays)
    dj.weights.load_torch(model, tmp_path / "a.safetensors")
    for name, array in dj.weights.to_torch(model).items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, arrays[name].astype(np.float32))


def test_the_flag(tmp_path, capsys):
    """--ema is refused for sources without averaged weights."""
    run, picture, file = tmp_path / "run", tmp_path / "a.png", tmp_path / "a.safetensors"
    run.mkdir()
    picture.write_bytes(b"")
    model = dj.create_model("densenet_bc_k4_d10", rngs=nnx.Rngs(0))
    weight_files.write(file, dj.weights.to_torch(model))
    flags = [str(picture), "--compile_cache=off", "--ema"]
    assert command.run(predict.main, [*flags, "--weights", str(run)]) == 2
    assert capsys.readouterr().err == (
        f"error: {run} is a run directory, which --ema is not for: remove --ema\n"
    )
    flags += ["--model=densenet_bc_k4_d10", "--num_classes=10", "--resize=32", "--crop=32"]
    assert command.run(predict.main, [*flags, "--weights", str(file)]) == 2
    assert capsys.readouterr().err.endswith(
        f"error: {file} is in safetensors format, which holds one set of weights: remove ema=True "
        "or --ema\n"
    )
