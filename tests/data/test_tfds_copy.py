"""Tests that a copy prepared by TFDS equals the published files, and is read without TensorFlow."""

import json
import sys

import published_sets
import pytest
from published_sets import assert_same, refuses

from densenet_jax.data import sources

SHAPES = {
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
    "svhn": ((32, 32, 3), 10),
    "fashion_mnist": ((28, 28, 1), 10),
}


def prepare(directory, name, with_id=True):
    """Prepares a small copy of a set; returns its directory and its content."""
    sizes = {"train": 150, "test": 50} | ({"extra": 120} if name == "svhn" else {})
    parts = published_sets.make_parts(sizes, *SHAPES[name])
    tfds_name = "svhn_cropped" if name == "svhn" else name
    return published_sets.prepare_tfds(directory, tfds_name, parts, with_id), parts


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_copy_equals_the_published_files(tmp_path, name, file_format):
    copy, parts = prepare(tmp_path, name)
    if file_format == "tfrecord":
        published_sets.to_tfrecord(copy)
    assert {path.suffix.split("-")[0] for path in copy.glob("*-of-*")} == {f".{file_format}"}

    raw = tmp_path / "raw"
    if name == "svhn":
        published_sets.write_svhn(raw, parts)
    elif name == "fashion_mnist":
        published_sets.write_fashion_mnist(raw, parts)
    else:
        files = published_sets.cifar_files(name, "binary", parts)
        published_sets.write_directory(raw, files)
    holdout = 30
    from_raw = sources.load(name, str(raw), holdout)
    from_copy = sources.load(name, str(tmp_path), holdout)
    for split in ("train", "validation", "test"):
        expected = getattr(from_raw, split)
        assert_same(getattr(from_copy, split), expected.images, expected.labels)
    assert "tensorflow" not in sys.modules


def test_the_newest_finished_version_is_read(tmp_path):
    copy, parts = prepare(tmp_path, "fashion_mnist")
    for version in ("2.0.0", "3.0.1.incompleteA1B2C3", "incomplete.A1B2C3_3.0.1"):
        (copy.parent / version).mkdir()
        (copy.parent / version / "dataset_info.json").write_text("{}")
    assert_same(sources.load("fashion_mnist", str(tmp_path)).test, *parts["test"])


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_versions_without_identifiers(tmp_path, name, file_format):
    """Versions such as cifar10 3.0.0 and svhn_cropped 3.0.0 have no feature "id"."""
    copy, parts = prepare(tmp_path, name, with_id=False)
    copy = copy.rename(copy.with_name("3.0.0"))
    published_sets.edit_info(copy, version="3.0.0")
    if file_format == "tfrecord":
        published_sets.to_tfrecord(copy)
    assert b'"id"' not in (copy / "features.json").read_bytes()
    assert_same(sources.load(name, str(tmp_path)).test, *parts["test"])


@pytest.mark.parametrize(
    "name, with_id",
    [
        ("cifar10", True),
        ("cifar10", False),
        ("cifar100", False),
        ("svhn", False),
        ("fashion_mnist", False),
    ],
)
def test_a_copy_from_before_features_were_stored(tmp_path, name, with_id):
    """TFDS before version 4 wrote TFRecord, without features.json and file names in the info."""
    copy, parts = prepare(tmp_path, name, with_id)
    published_sets.to_tfrecord(copy)
    (copy / "features.json").unlink()
    info = json.loads((copy / "dataset_info.json").read_text())
    del info["fileFormat"], info["moduleName"]
    for split in info["splits"]:
        del split["filepathTemplate"]
    (copy / "dataset_info.json").write_text(json.dumps(info))
    assert_same(sources.load(name, str(tmp_path)).test, *parts["test"])


@pytest.mark.parametrize(
    "place, directory",
    [
        ("cifar10/config/3.0.2", "."),
        ("cifar10/3.0.2", "cifar10"),
        ("cifar10/3.0.2", "cifar10/3.0.2"),
        ("sets/3.0.2", "sets"),
    ],
)
def test_places_of_a_copy(tmp_path, place, directory):
    copy, parts = prepare(tmp_path / "prepared", "cifar10")
    (tmp_path / place).parent.mkdir(parents=True)
    copy.rename(tmp_path / place)
    assert_same(sources.load("cifar10", str(tmp_path / directory)).test, *parts["test"])


def test_a_copy_of_another_set_is_not_found(tmp_path):
    prepare(tmp_path, "cifar100")
    refuses("cifar10", tmp_path / "cifar100", "missing .*: run `python -m launch.fetch cifar10")


def damage(copy, pattern, change):
    """Rewrites the only file of `copy` that matches `pattern`."""
    (path,) = copy.glob(pattern)
    path.write_bytes(change(path.read_bytes()))


HUGE = (2**40).to_bytes(8, "little")


@pytest.mark.parametrize(
    "file_format, change, message",
    [
        ("tfrecord", lambda data: data[:-5], "is cut short"),
        ("tfrecord", lambda data: data + bytes(5), "is cut short"),
        ("tfrecord", lambda data: HUGE + data[8:], "is cut short"),
        ("tfrecord", lambda data: b"", "'train' has 75 examples instead of 150"),
        ("tfrecord", lambda data: data.replace(b"IDAT", b"idat"), "is damaged"),
        ("array_record", lambda data: data[: len(data) // 2], "is damaged"),
        ("array_record", lambda data: bytes(len(data)), "is damaged"),
        ("array_record", lambda data: b"", "is damaged"),
    ],
)
def test_broken_copy(tmp_path, file_format, change, message):
    copy, _ = prepare(tmp_path, "cifar10")
    if file_format == "tfrecord":
        published_sets.to_tfrecord(copy)
    damage(copy, "*train*00000-of*", change)
    refuses("cifar10", tmp_path, f"{copy} .*{message}")


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_missing_shard(tmp_path, file_format):
    copy, _ = prepare(tmp_path, "cifar10")
    if file_format == "tfrecord":
        published_sets.to_tfrecord(copy)
    (path,) = copy.glob("*train*00001-of*")
    path.unlink()
    refuses("cifar10", tmp_path, str(copy))


def test_copy_that_cannot_be_read(tmp_path):
    copy, _ = prepare(tmp_path, "svhn")
    published_sets.edit_info(copy, fileFormat="riegeli")
    refuses(
        "svhn", tmp_path, "has the format riegeli: prepare it again with file_format=.array_rec"
    )
    published_sets.edit_info(copy, fileFormat="array_record", splits=[])
    refuses("svhn", tmp_path, f"{copy} has no split 'train'")
    (copy / "dataset_info.json").write_text("{")
    refuses("svhn", tmp_path, f"{copy} is damaged")
