"""Tests sound files with other layouts and types.

A file with a clear meaning is read. Another file is refused, without calling it damaged.
"""

import gzip
import importlib
import itertools
import pickle
import struct

import numpy as np
import published_sets
import pytest
import scipy.io
from published_sets import assert_same

from densenet_jax.data import cifar, sources
from densenet_jax.errors import InputError

IMAGES, LABELS = published_sets.make_parts({"train": 4}, num_classes=100)["train"]
PLANES = IMAGES.transpose(0, 3, 1, 2)
LAYOUTS = {
    "rows": np.ascontiguousarray(PLANES).reshape(4, 3072),
    "planes": np.ascontiguousarray(PLANES),
    "transposed planes": PLANES,  # NumPy 2 pickles these in stored order.
    "pixels": IMAGES,
    "every second": np.repeat(IMAGES, 2, axis=0)[::2],
}
LABEL_KINDS = {
    "list": LABELS.tolist(),
    "tuple": tuple(LABELS.tolist()),
    "int64": LABELS,
    "int32": LABELS.astype(np.int32),
    "big-endian": LABELS.astype(">i2"),
    "uint8": LABELS.astype(np.uint8),
    "column": LABELS[:, None],
    "floats": LABELS.astype(np.float32),
    "scalars": list(LABELS),
    "uint8 scalars": list(LABELS.astype(np.uint8)),
}


@pytest.fixture(params=["numpy.core", "numpy._core"])
def saved_by(request, monkeypatch):
    """Makes pickles refer to NumPy's functions by their names in NumPy 1 or NumPy 2."""
    for module, names in (
        ("multiarray", ("_reconstruct", "scalar")),
        ("numeric", ("_frombuffer",)),
    ):
        place = importlib.import_module(f"{request.param}.{module}")
        for name in names:
            function = getattr(importlib.import_module(f"numpy._core.{module}"), name)
            monkeypatch.setattr(function, "__module__", place.__name__)
            monkeypatch.setitem(
                vars(place), name, function
            )  # Pickling looks for the function there.
    return request.param


def load_train(directory, name="cifar100"):
    return sources.load(name, str(directory)).train


@pytest.mark.parametrize("protocol", range(6))
def test_cifar_pickled_in_any_layout(tmp_path, saved_by, protocol):
    for layout, order in itertools.product(LAYOUTS, "CFK"):
        data = LAYOUTS[layout].copy(order) if order != "K" else LAYOUTS[layout]
        content = pickle.dumps({"data": data, "fine_labels": LABELS.tolist()}, protocol)
        assert saved_by.encode() in content
        published_sets.write_cifar100(tmp_path, content)
        assert_same(load_train(tmp_path), IMAGES, LABELS)


@pytest.mark.parametrize("protocol", range(6))
def test_cifar_with_labels_in_any_sequence(tmp_path, saved_by, protocol):
    for labels in LABEL_KINDS.values():
        content = pickle.dumps({"data": LAYOUTS["rows"], "fine_labels": labels}, protocol)
        assert saved_by.encode() in content
        published_sets.write_cifar100(tmp_path, content)
        assert_same(load_train(tmp_path), IMAGES, LABELS)


def refuses_as_another_kind(name, directory, message):
    with pytest.raises(InputError, match=message) as caught:
        sources.load(name, str(directory))
    assert "\n" not in str(caught.value) and "damaged" not in str(caught.value)


ROWS = LAYOUTS["rows"]
MIXED = np.array([1, "two"], object)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "batch, message",
    [
        ({"data": ROWS > 127}, r"train\) has data of bool \(4, 3072\) instead of uint8"),
        ({"data": ROWS.astype(np.int8)}, "data of int8"),
        ({"data": ROWS.astype(np.int64)}, "data of int64"),
        ({"data": ROWS.astype(">u2")}, "data of >u2"),
        ({"data": ROWS / np.float32(255)}, "data of float32"),
        ({"data": ROWS.astype(complex)}, "an array of type 'c16' instead of numbers"),
        ({"data": MIXED}, "an array of type 'O8' instead of numbers"),
        ({"data": ROWS[:, 1:]}, r"data of uint8 \(4, 3071\) instead of .* \(N, 32, 32, 3\)$"),
        ({"data": ROWS.ravel()}, r"data of uint8 \(12288,\)"),
        ({"data": PLANES.transpose(0, 2, 1, 3)}, r"data of uint8 \(4, 32, 3, 32\)"),
        ({"data": IMAGES.transpose(1, 2, 3, 0)}, r"data of uint8 \(32, 32, 3, 4\)"),
        ({"data": ROWS.tolist()}, "has a list as data instead of an array"),
        ({"fine_labels": LABELS > 1}, "fine_labels of type bool instead of integers"),
        ({"fine_labels": [True] * 4}, "fine_labels that are not all integers"),
        ({"fine_labels": list(LABELS > 1)}, "fine_labels that are not all integers"),
        ({"fine_labels": LABELS + 0.5}, "fine_labels that are not all integers"),
        ({"fine_labels": LABELS * np.nan}, "fine_labels that are not all integers"),
        ({"fine_labels": ["cat"] * 4}, "fine_labels that are not all integers"),
        ({"fine_labels": np.array(["cat"] * 4)}, "an array of type 'U3' instead of numbers"),
        ({"fine_labels": np.eye(4, 100)}, r"fine_labels of shape \(4, 100\) instead of \(N,\)"),
        ({"fine_labels": {0: 1}}, "fine_labels in a dict instead of a list or an array"),
        ({"fine_labels": None}, "fine_labels in a NoneType instead of a list or an array"),
    ],
)
def test_pickled_cifar_of_another_kind(tmp_path, batch, message, protocol):
    whole = {"data": ROWS, "fine_labels": LABELS.tolist()} | batch
    published_sets.write_cifar100(tmp_path, pickle.dumps(whole, protocol))
    refuses_as_another_kind("cifar100", tmp_path, message)


@pytest.mark.parametrize(
    "value, message",
    [
        ([ROWS, LABELS], "holds a list instead of a dict"),
        ({"data": ROWS, "labels": LABELS}, "has no fine_labels or no data, only data, labels"),
        (np.ma.masked_array(ROWS), "refers to numpy.ma"),
    ],
)
def test_other_pickles(tmp_path, value, message):
    published_sets.write_cifar100(tmp_path, pickle.dumps(value))
    refuses_as_another_kind("cifar100", tmp_path, message)


def test_a_whole_set_with_numpy_scalars_as_labels_is_within_the_limits():
    """No sound file has more opcodes."""
    labels = list(np.arange(50_000) % 100)
    batch = {"data": np.zeros((1, 3072), np.uint8), "fine_labels": labels}
    batch |= {"coarse_labels": labels, "filenames": [f"{i}.png" for i in range(50_000)]}
    _, found = cifar._decode_pickle(pickle.dumps(batch, 0), "fine_labels")
    assert found.tolist() == labels


@pytest.fixture
def svhn(tmp_path):
    """Writes a small SVHN to `tmp_path`, with all ten digits in its part "extra"."""
    parts = published_sets.make_parts({"train": 20, "extra": 20, "test": 10})
    published_sets.write_svhn(tmp_path, parts)
    return parts


@pytest.mark.parametrize("kind", [np.uint8, np.int64, float])
@pytest.mark.parametrize("zero", [0, 10])
def test_svhn_with_either_label_for_zero(tmp_path, svhn, zero, kind):
    images, labels = svhn["extra"]
    for shape in ((-1, 1), (1, -1)):
        y = np.where(labels == 0, zero, labels).astype(kind).reshape(shape)
        content = {"X": np.moveaxis(images, 0, -1), "y": y}
        scipy.io.savemat(tmp_path / "extra_32x32.mat", content)
        train = load_train(tmp_path, "svhn")
        np.testing.assert_array_equal(train.images[20:], images)
        np.testing.assert_array_equal(train.labels[20:], labels)


X = np.zeros((32, 32, 3, 2), np.uint8)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"X": X, "y": np.array([0, 10])}, "has both labels 0 and 10 for the digit 0"),
        ({"X": X, "y": np.array([1, 1.5])}, "labels that are not all integers"),
        ({"X": X, "y": np.array([1, np.inf])}, "labels that are not all integers"),
        ({"X": X, "y": np.eye(2)}, r"labels of shape \(2, 2\) instead of \(N,\)"),
        ({"X": X, "y": np.array(["one", "two"])}, "labels of type char instead of integers"),
        ({"X": X, "y": scipy.sparse.csc_matrix(np.eye(2))}, "labels of type sparse instead"),
        ({"X": X, "y": np.array([True, False])}, "labels of type logical instead of integers"),
        ({"X": X > 0, "y": np.ones(2)}, "X of logical"),
        ({"X": X / 255, "y": np.ones(2)}, r"X of double \(32, 32, 3, 2\) instead of uint8 \(32"),
        ({"X": np.moveaxis(X, -1, 0), "y": np.ones(2)}, r"X of uint8 \(2, 32, 32, 3\) instead of"),
        ({"digitStruct": np.ones(2)}, "has no X or no y, only digitStruct"),
        ({}, "has no X or no y, only nothing"),
    ],
)
def test_mat_of_another_kind(tmp_path, svhn, content, message):
    scipy.io.savemat(tmp_path / "extra_32x32.mat", content)
    refuses_as_another_kind("svhn", tmp_path, f"extra_32x32.mat .*{message}")


def test_mat_of_format_7_3(tmp_path, svhn):
    """Such a file is an HDF5 file after a header of 512 bytes, which ends in the version."""
    text = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124)
    header = (text + struct.pack("<H", 0x0200) + b"IM").ljust(512, b"\0")
    (tmp_path / "extra_32x32.mat").write_bytes(header + b"\x89HDF\r\n\x1a\n")
    refuses_as_another_kind("svhn", tmp_path, "extra_32x32.mat is in MATLAB's format 7.3: .*'-v7'")


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((20, 784), np.uint8), "is an idx file of 2-d uint8 instead of 3-d uint8"),
        (np.zeros((20, 28, 28), ">i4"), "is an idx file of 3-d int32 instead of 3-d uint8"),
        (np.zeros((20, 28, 28), ">f4"), "is an idx file of 3-d float32 instead of 3-d uint8"),
    ],
)
def test_idx_of_another_kind(tmp_path, array, message):
    parts = published_sets.make_parts({"train": 50, "test": 20}, (28, 28, 1))
    published_sets.write_fashion_mnist(tmp_path, parts)
    code = {"u1": 8, "i4": 12, "f4": 13}[array.dtype.str[1:]]
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(header + array.tobytes()))
    refuses_as_another_kind("fashion_mnist", tmp_path, f"{path} {message}")


def test_tfds_copy_of_another_kind(tmp_path):
    parts = published_sets.make_parts({"train": 3, "test": 3})
    copy = published_sets.prepare_tfds(tmp_path, "cifar10", parts)
    path = copy / "features.json"
    whole = path.read_text()
    path.write_text(whole.replace('"label"', '"labels"'))
    refuses_as_another_kind("cifar10", tmp_path, f"{copy} has no images with labels: it is a copy")
    path.write_text(whole)
    assert len(load_train(tmp_path, "cifar10")) == 3


def test_tfds_copy_of_images_of_several_sizes(tmp_path):
    small, large = (np.zeros((side, side, 3), np.uint8) for side in (32, 48))
    parts = {part: ([small, large], [0, 1]) for part in ("train", "test")}
    copy = published_sets.prepare_tfds(tmp_path, "cifar10", parts)
    path = copy / "features.json"
    path.write_text(path.read_text().replace('"32"', '"-1"'))
    refuses_as_another_kind("cifar10", tmp_path, f"{copy} has images of several sizes")
