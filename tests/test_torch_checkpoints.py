"""Files of PyTorch scripts are loaded exactly, or refused with a one-line error."""

import argparse
import collections
import contextlib
import dataclasses
import datetime
import enum
import functools
import os
import pathlib
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch_keys
from flax import nnx

import densenet_jax as dj

torch = pytest.importorskip("torch")

Module: Any = torch.nn.Module
FORMATS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}


class Phase(enum.Enum):
    TRAIN = 1


@dataclasses.dataclass
class Recipe:
    rate: float
    phase: Phase = Phase.TRAIN


class AttributeDict(dict):
    """A dict like the hyper_parameters of Lightning."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.frozen = True


class Trap:
    """An object whose unpickling makes a directory."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Network(Module):
    def __init__(self):
        super().__init__()
        self.features = torch.nn.Conv2d(3, 4, 3)


def as_module(tensors):
    """Returns a module with these parameters and buffers."""
    made = Module()
    for name, tensor in tensors.items():
        *parents, leaf = name.split(".")
        inner = made
        for parent in parents:
            if not hasattr(inner, parent):
                inner.add_module(parent, Module())
            inner = getattr(inner, parent)
        if leaf.startswith("running"):
            inner.register_buffer(leaf, tensor)
        else:
            inner.register_parameter(leaf, torch.nn.Parameter(tensor))
    made.register_buffer("thresholds", torch.ones(3), persistent=False)
    made.register_parameter("absent", None)
    return made


def create():
    return dj.create_model("densenet_bc_k4_d10", block_config=(1, 1), rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def network():
    return create()


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return {
        name: rng.uniform(0.5, 1.5, array.shape).astype(np.float32)
        for name, array in dj.weights.to_torch(create()).items()
    }


@pytest.fixture
def tensors(arrays):
    return {name: torch.tensor(array) for name, array in arrays.items()}


def prefixed(tensors, prefix):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def optimizer():
    weight = torch.nn.Parameter(torch.ones(3))
    made = torch.optim.Adam([weight])
    weight.sum().backward()
    made.step()
    return made


def with_metadata(tensors):
    made = collections.OrderedDict(tensors)
    made._metadata = collections.OrderedDict({"": {"version": 1}})
    return made


def with_attributes(tensors):
    for tensor in tensors.values():
        tensor.tag = "decay"
    return tensors


def with_parameter_attributes(tensors):
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}
    return with_attributes(parameters)


def sharing_one_storage(tensors):
    flat = torch.cat([tensor.flatten() for tensor in tensors.values()])
    pieces = flat.split([tensor.numel() for tensor in tensors.values()])
    return {
        name: piece.view(tensor.shape)
        for piece, (name, tensor) in zip(pieces, tensors.items(), strict=True)
    }


def transposed(tensors):
    return {name: tensor.t().contiguous().t() if tensor.ndim == 2 else tensor
            for name, tensor in tensors.items()}  # fmt: skip


def torchvision_script(tensors):
    return {
        "model": tensors,
        "optimizer": optimizer().state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer(), 30).state_dict(),
        "epoch": 89,
        "args": argparse.Namespace(data_path=pathlib.Path("/data"), lr=0.1, device="cuda"),
        "scaler": {"scale": 65536.0},
        "model_ema": {"n_averaged": torch.tensor(3)} | prefixed(tensors, "module."),
    }


def timm_script(tensors):
    return {
        "epoch": 89,
        "arch": "densenet121",
        "state_dict": tensors,
        "optimizer": optimizer().state_dict(),
        "version": 2,
        "args": argparse.Namespace(mean=(0.5,), betas=None),
        "metric": np.float64(74.4),
        "state_dict_ema": {name: tensor * 0 for name, tensor in tensors.items()},
    }


def lightning(tensors):
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.0",
        "state_dict": prefixed(tensors, "model."),
        "callbacks": {"EarlyStopping": {"best_score": torch.tensor(0.1), "mode": Phase.TRAIN}},
        "hyper_parameters": AttributeDict(lr=0.1, path=pathlib.Path("a")),
    }


def chexnet(tensors):
    """Returns a checkpoint like those of the PyTorch 0.3 networks for chest X-rays."""
    older = {torch_keys.as_older_torchvision(name): tensor for name, tensor in tensors.items()}
    return {"epoch": 5, "state_dict": prefixed(older, "module.densenet121."), "best_loss": 0.1}


def torchxrayvision(tensors):
    return tensors | {"op_threshs": torch.tensor([0.1, float("nan")])}


def beside(value):
    return lambda tensors: {"state_dict": tensors, "beside": value}


LOADED = {
    "a state dict": dict,
    "an OrderedDict with metadata": with_metadata,
    "a dict of another class": AttributeDict,
    "parameters": lambda t: {name: torch.nn.Parameter(tensor) for name, tensor in t.items()},
    "parameters with attributes": with_parameter_attributes,
    "tensors with attributes": with_attributes,
    "views of one storage": sharing_one_storage,
    "transposed tensors": transposed,
    "float64": lambda t: {name: tensor.double() for name, tensor in t.items()},
    "torchvision's script": torchvision_script,
    "timm's script": timm_script,
    "PyTorch's ImageNet example": lambda t: {
        "epoch": 90,
        "arch": "densenet121",
        "state_dict": prefixed(t, "module."),
        "best_acc1": torch.tensor(74.4),
        "optimizer": optimizer().state_dict(),
        "scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer(), np.float64),
    },
    "Lightning": lightning,
    "CheXNet": chexnet,
    "torchxrayvision": torchxrayvision,
    "torchxrayvision, thresholds in a list": lambda t: t | {"op_threshs": [0.1, float("nan")]},
    "torch.compile": lambda t: {"model_state_dict": prefixed(t, "_orig_mod.")},
    "torch.compile of DataParallel": lambda t: {"net": prefixed(t, "_orig_mod.module.")},
    "AveragedModel": lambda t: prefixed(t, "module.") | {"n_averaged": torch.tensor(3)},
    "the average only": lambda t: {"epoch": 1, "model_ema": t},
    "nested once more": lambda t: {"model": {"state_dict": t, "step": 1}, "args": None},
    "an epoch beside the tensors": lambda t: t | {"epoch": 3, "best": None, 7: torch.ones(1)},
    "a whole module": as_module,
    "a whole module in DataParallel": lambda t: torch.nn.DataParallel(as_module(t)),
    "a whole module in a checkpoint": lambda t: {"epoch": 1, "model": as_module(t)},
    "a NumPy scalar": beside(np.float32(1.5)),
    "NumPy arrays": beside({"mean": np.ones(3), "names": np.array(["a"], object)}),
    "a NumPy generator": beside(np.random.default_rng(0)),
    "a path": beside(pathlib.Path("/data/imagenet")),
    "an enum": beside(Phase.TRAIN),
    "a dataclass": beside(Recipe(0.1)),
    "functions": beside([os.path.join, functools.partial(max, 1), Recipe, len]),
    "collections": beside(
        [
            *(collections.defaultdict(list, {"a": [1]}), collections.Counter("aab")),
            *(collections.deque([1]), {1, 2}, frozenset([3]), range(3), slice(3), 1j, b"bytes"),
            *(datetime.datetime(2020, 1, 1), datetime.timedelta(1), bytearray(b"b"), 2**80),
        ]
    ),
    "PyTorch's own objects": lambda t: {
        "model": t,
        "optimizer": optimizer(),
        "criterion": torch.nn.CrossEntropyLoss(torch.ones(3)),
        "rng": torch.get_rng_state(),
        "of torch": [torch.device("cpu"), torch.float16, torch.Size([1]), torch.strided],
        "tensors": [torch.ones(2).to_sparse(), torch.ones(0), torch.ones(1, dtype=torch.uint16)],
    },
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("case", LOADED)
def test_a_file_is_loaded(case, format, network, arrays, tensors, tmp_path):
    zeros = {name: np.zeros_like(array) for name, array in arrays.items()}
    dj.weights.load_torch(network, zeros)
    torch.save(LOADED[case](tensors), tmp_path / "file", **FORMATS[format])
    dj.weights.load_torch(network, tmp_path / "file")
    for name, array in dj.weights.to_torch(network).items():
        np.testing.assert_array_equal(array, arrays[name])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int64", "uint8", "bool", "complex64"])
def test_numbers_of_every_type(kind, format, tmp_path):
    tensor = torch.tensor([[0, 1, 2]]).to(getattr(torch, kind))
    torch.save({"a": tensor}, tmp_path / "file", **FORMATS[format])
    expected = (tensor.float() if kind == "bfloat16" else tensor).numpy()
    found = dj.weight_files.read(tmp_path / "file")["a"]
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("format", FORMATS)
def test_every_pickle_protocol(format, protocol, arrays, tensors, tmp_path):
    torch.save({"model": tensors, "path": pathlib.Path("a")}, tmp_path / "file",
               pickle_protocol=protocol, **FORMATS[format])  # fmt: skip
    if (format, protocol) == ("legacy", 1):
        with pytest.raises(dj.InputError, match="it begins with b'L1195"):
            dj.weight_files.read(tmp_path / "file")
        return
    for name, array in dj.weight_files.read(tmp_path / "file").items():
        np.testing.assert_array_equal(array, arrays[name])


STATE_DICT = r"\): save model\.state_dict\(\) with torch\.save instead$"
REFUSED = {
    "a module without tensors": (
        lambda t: torch.nn.ReLU(),
        "a whole module, ReLU, without tensors",
    ),
    "a list": (lambda t: list(t.values()), "it holds a list, not a dict of tensors"),
    "one tensor": (lambda t: torch.ones(3), "it holds a Tensor, not a dict of tensors"),
    "an optimizer": (
        lambda t: optimizer().state_dict(),
        "no dict of tensors; its entries: 'state', 'param_groups'",
    ),
    "another name": (lambda t: {"generator": t}, "no dict of tensors; its entries: 'generator'"),
    "NumPy arrays": (lambda t: {"a": np.ones(3)}, "no dict of tensors; its entries: 'a'"),
    "nothing": (lambda t: {}, "no dict of tensors; its entries: none"),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("case", REFUSED)
def test_a_file_is_refused(case, format, tensors, tmp_path):
    make, words = REFUSED[case]
    with warnings.catch_warnings(action="ignore"):
        torch.save(make(tensors), tmp_path / "file", **FORMATS[format])
    with pytest.raises(dj.InputError, match=words + STATE_DICT) as caught:
        dj.weight_files.read(tmp_path / "file")
    assert str(caught.value).startswith(f"{tmp_path / 'file'} holds no weights that can be read (")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("place", ["beside", "within", "instead", "alone", "as a name"])
def test_code_in_a_file_is_not_run(place, format, tensors, arrays, tmp_path):
    trap = Trap(tmp_path / "sprung")
    content = {
        "beside": {"state_dict": tensors, "trap": trap},
        "within": tensors | {"trap": trap},
        "instead": {"state_dict": trap, "epoch": 1},
        "alone": trap,
        "as a name": tensors | {trap: tensors},
    }[place]
    torch.save(content, tmp_path / "file", **FORMATS[format])
    with contextlib.ExitStack() as stack:
        if place in ("instead", "alone"):
            stack.enter_context(pytest.raises(dj.InputError, match="no dict of tensors"))
        assert dj.weight_files.read(tmp_path / "file").keys() == arrays.keys()
    assert not (tmp_path / "sprung").exists()
    # The trap works if code in pickles runs.
    pickle.loads(pickle.dumps(trap))
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_file_that_is_cut_off(share, format, tensors, tmp_path):
    torch.save(tensors, tmp_path / "file", **FORMATS[format])
    content = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(content[: int(share * len(content))])
    with pytest.raises(dj.InputError, match=r"\((.* cut off|.* truncated)\): download it again$"):
        dj.weight_files.read(tmp_path / "file")


def test_a_damaged_file(tensors, tmp_path):
    torch.save(tensors, tmp_path / "file")
    content = bytearray((tmp_path / "file").read_bytes())
    position = content.index(tensors["classifier.weight"].numpy().tobytes())
    content[position] ^= 1
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(dj.InputError, match=r"Bad CRC-32 .*: download it again"):
        dj.weight_files.read(tmp_path / "file")


@pytest.mark.parametrize("format", FORMATS)
def test_types_that_numpy_lacks(format, tmp_path):
    with warnings.catch_warnings(action="ignore"):
        tensor = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
        torch.save({"a": tensor}, tmp_path / "file", **FORMATS[format])
    with pytest.raises(dj.InputError, match=r"numbers of the type QInt8Storage.*as float32"):
        dj.weight_files.read(tmp_path / "file")


def test_torchscript_is_refused(tmp_path):
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(Network().features), tmp_path / "file.pt")
    with pytest.raises(
        dj.InputError, match=r"\(it is a TorchScript archive\): save the state_dict"
    ):
        dj.weight_files.read(tmp_path / "file.pt")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "name",
    ["a.pth", "a.pth.tar", "a.ckpt", "a.dat", "a.bin", "a.PTH", "a.pt", "a.safetensors", "a"],
)
def test_the_name_of_a_file_does_not_matter(name, format, tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / name, **FORMATS[format])
    np.testing.assert_array_equal(dj.weight_files.read(tmp_path / name)["a"], np.ones(3))


def test_what_was_not_read_is_logged(tensors, caplog, tmp_path):
    content = timm_script(tensors) | {"state_dict": tensors | {"op_threshs": None}}
    torch.save(content, tmp_path / "file")
    dj.weight_files.read(tmp_path / "file")
    read_and_not, ignored = (record.getMessage() for record in caplog.records)
    assert read_and_not.endswith(
        "under state_dict, not those under state_dict_ema; ema=True or --ema reads averaged weights"
    )
    assert ignored.endswith("ignored entries that are not named tensors (1): op_threshs")
