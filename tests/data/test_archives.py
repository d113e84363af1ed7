"""Tests that a broken or hostile file raises an error of one line that names the file."""

import gzip
import hashlib
import io
import os
import pickle
import re
import struct
import tarfile

import numpy as np
import published_sets
import pytest
import scipy.io
from published_sets import refuses

from densenet_jax.data import archives, sources, svhn
from densenet_jax.errors import InputError

PICKLE = published_sets.python2_pickle


class MakeDirectory:
    """An object that pickles as a call that makes a directory."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_pickle_is_refused_without_running(tmp_path):
    published_sets.write_cifar100(
        tmp_path, pickle.dumps({"data": MakeDirectory(tmp_path / "ran")}, 2)
    )
    refuses("cifar100", tmp_path, r"\(train\) refers to posix.mkdir: only arrays")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"\(train\) is damaged"),
        (PICKLE({"data": [1], "fine_labels": [1]}), "has a list as data instead of an array"),
        (PICKLE({"fine_labels": [1]}), "has no fine_labels or no data, only fine_l"),
        (PICKLE({"data": np.zeros((2, 3072), np.uint8), "fine_labels": ["a"]}), "not all integers"),
        (PICKLE({"data": np.zeros((2, 3072), np.uint8), "fine_labels": [1]}), "2 images and 1 lab"),
        (
            PICKLE({"data": np.zeros((1, 3071), np.uint8), "fine_labels": [1]}),
            r"data of uint8 \(1, 3071\) inst",
        ),
        (PICKLE({"data": np.zeros((1, 3072), np.uint8), "fine_labels": [-1]}), "from -1 to -1"),
        # Both would take gigabytes: an entry with a huge index, and many small objects.
        (b"\x80\x02}r" + struct.pack("<I", 2**31) + b".", "asks for too much memory"),
        (b"\x80\x02" + b"}" * (2**21 + 1) + b".", "asks for too much memory"),
    ],
)
def test_broken_pickle(tmp_path, content, message):
    published_sets.write_cifar100(tmp_path, content)
    refuses("cifar100", tmp_path, message)


@pytest.mark.parametrize(
    "content, message",
    [
        (
            bytes(3073 * 2 - 1),
            r"\(data_batch_2.bin\) .* 6,145 bytes, is not a multiple of the 3073",
        ),
        (bytes([10]) + bytes(3072), r"\(data_batch_2.bin\) has labels from 10 to 10"),
        (b"", r"\(data_batch_2.bin\) has 0 images"),
    ],
)
def test_broken_binary_cifar(tmp_path, content, message):
    published_sets.write_cifar10(tmp_path, data_batch_2=content)
    refuses("cifar10", tmp_path, message)


def test_missing_cifar(tmp_path):
    with pytest.raises(InputError, match=r"missing /nonexistent/.*/cifar10/.*fetch cifar10`, or"):
        sources.load("cifar10")
    expected = f"missing {tmp_path}/cifar-10-binary.tar.gz (or cifar-10-batches-bin, "
    refuses("cifar10", tmp_path, re.escape(expected) + ".*data.directory.*kriz/cifar.html")
    published_sets.write_cifar10(tmp_path)
    (tmp_path / "data_batch_5.bin").unlink()
    refuses("cifar10", tmp_path, f"missing {tmp_path}/data_batch_5.bin: ")


def test_broken_archive(tmp_path, monkeypatch):
    path = tmp_path / "cifar-10-binary.tar.gz"
    parts = published_sets.make_parts({"train": 20, "test": 10})
    files = published_sets.cifar_files("cifar10", "binary", parts)
    published_sets.write_archive(path, "cifar-10-batches-bin", files)
    whole = path.read_bytes()

    path.write_bytes(whole[: len(whole) // 2])
    refuses("cifar10", tmp_path, f"{path} is damaged")
    path.write_bytes(b"<html>404 Not Found</html>")
    refuses("cifar10", tmp_path, f"{path} is damaged .*Not a gzipped file")
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:9000]))
    refuses("cifar10", tmp_path, f"{path} is damaged")
    path.write_bytes(gzip.compress(bytes(1024)))
    refuses("cifar10", tmp_path, "it has no data_batch_1.bin, data_batch_2.bin")

    path.write_bytes(whole)
    with monkeypatch.context() as patch:
        patch.setattr(archives, "MAX_BYTES", 10_000)
        refuses("cifar10", tmp_path, "it holds more than 10,000 bytes")
    for digest in (hashlib.md5(whole).hexdigest(), hashlib.sha256(whole).hexdigest()):
        monkeypatch.setitem(archives._OFFICIAL, path.name, (str(len(whole)), digest))
        assert len(sources.load("cifar10", str(tmp_path)).train.labels) == 20
        path.write_bytes(whole[:-1] + b"\1")
        refuses("cifar10", tmp_path, f"{path} is damaged .*size of the official file, but another")
        path.write_bytes(whole)


def test_archive_member_that_claims_a_huge_size(tmp_path):
    member = tarfile.TarInfo("data_batch_1.bin")
    member.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "data_batch_1.bin",
        "GNU.sparse.realsize": str(2**40),
    }
    content = b"1\n0\n1\n".ljust(512, b"\0") + bytes(512)
    member.size = len(content)
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        tar.addfile(member, io.BytesIO(content))
    refuses("cifar10", tmp_path, "member data_batch_1.bin claims 1,099,511,627,776 bytes")


@pytest.mark.parametrize(
    "content, message",
    [
        (
            b"\0\0\x08\x01" + struct.pack(">I", 5) + bytes(5),
            "is an idx file of 1-d .* of 3-d uint8",
        ),
        (b"\0\0\x08\x03" + struct.pack(">I", 5), "is damaged .*ends in its header, after 8 bytes"),
        (b"\0\0\x0a\x03" + bytes(12), "is damaged .*it has no header of an idx file"),
        (
            b"\0\0\x08\x03" + struct.pack(">3I", 2**31, 28, 28),
            r"header gives shape .*, but 0 bytes follow",
        ),
        (
            b"\0\0\x08\x03" + struct.pack(">3I", 1, 28, 28) + bytes(783),
            "but 783 bytes follow",
        ),
        (b"\0\0\x08\x03" + struct.pack(">3I", 1, 28, 28) + bytes(784), "1 image and 20 labels"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 1, 2, 2) + bytes(4), "another set"),
    ],
)
def test_broken_idx(tmp_path, content, message):
    parts = published_sets.make_parts({"train": 50, "test": 20}, (28, 28, 1))
    published_sets.write_fashion_mnist(tmp_path, parts)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(content))
    refuses("fashion_mnist", tmp_path, f"{path} .*{message}")


def test_damaged_or_missing_idx(tmp_path, monkeypatch):
    parts = published_sets.make_parts({"train": 50, "test": 20}, (28, 28, 1))
    published_sets.write_fashion_mnist(tmp_path, parts)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    unzipped = gzip.decompress(whole)
    digest = hashlib.sha256(unzipped).hexdigest()
    monkeypatch.setitem(archives._OFFICIAL, path.stem, (str(len(unzipped)), digest))
    assert len(sources.load("fashion_mnist", str(tmp_path)).train.labels) == 50
    path.write_bytes(gzip.compress(unzipped[:-1] + b"\0"))
    refuses("fashion_mnist", tmp_path, f"{path} is damaged .*another sha256 digest")
    path.write_bytes(gzip.compress(unzipped[:-2] + b"\x0a"))
    refuses("fashion_mnist", tmp_path, f"{path} is damaged")
    path.write_bytes(gzip.compress(unzipped[:8] + bytes([10]) * 50))
    monkeypatch.undo()
    refuses("fashion_mnist", tmp_path, f"with {path.name} has labels from 10 to 10")
    path.write_bytes(whole[:-20])
    refuses("fashion_mnist", tmp_path, f"{path} is damaged")
    path.unlink()
    refuses("fashion_mnist", tmp_path, f"missing {path}: .*data.directory.*dataset-fashion-mnist")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"no MATLAB file" * 100, "is damaged"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8)}, "has no X or no y, only X"),
        ({"y": np.ones((2, 1), np.uint8)}, "has no X or no y, only y"),
        ({"X": np.zeros((32, 32, 2), np.uint8), "y": np.ones((2, 1), np.uint8)}, "X of uint8"),
        ({"X": np.zeros((32, 32, 3, 2)), "y": np.ones((2, 1), np.uint8)}, "X of double"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": -np.ones((2, 1))}, "labels from -1 to -1"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.full((2, 1), 11)}, "from 11 to 11"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.ones((3, 1))}, "2 images and 3 labels"),
    ],
)
def test_broken_mat(tmp_path, content, message):
    published_sets.write_svhn(
        tmp_path, published_sets.make_parts({"train": 20, "extra": 20, "test": 10})
    )
    path = tmp_path / "extra_32x32.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        scipy.io.savemat(path, content)
    refuses("svhn", tmp_path, f"{path} .*{message}")


def test_damaged_or_missing_mat(tmp_path, monkeypatch):
    published_sets.write_svhn(
        tmp_path, published_sets.make_parts({"train": 20, "extra": 20, "test": 10})
    )
    path = tmp_path / "extra_32x32.mat"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    refuses("svhn", tmp_path, f"{path} is damaged")
    path.write_bytes(whole)
    digest = hashlib.sha256(whole).hexdigest()
    monkeypatch.setitem(archives._OFFICIAL, path.name, (str(len(whole)), digest))
    assert len(sources.load("svhn", str(tmp_path)).train.labels) == 40
    path.write_bytes(whole[:100] + b"!" + whole[101:])
    refuses("svhn", tmp_path, f"{path} is damaged .*another sha256 digest")
    with monkeypatch.context() as patch:
        patch.setattr(svhn, "MAX_IMAGES", 10)
        refuses("svhn", tmp_path, r"an X of uint8 \(32, 32, 3, 20\) .* N at most 10$")
    path.unlink()
    refuses("svhn", tmp_path, f"missing {path}: .*data.directory.*housenumbers")
