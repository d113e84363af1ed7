"""Tests that copies in PNG and in parquet have the images and labels of the official set."""

import io
import json
import pathlib
import re
import sys

import numpy as np
import published_sets
import pytest
from PIL import Image
from published_sets import refuses

from densenet_jax.data import class_names, parquet, png_folders, sources

SHAPES = {
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
    "fashion_mnist": ((28, 28, 1), 10),
    "svhn": ((32, 32, 3), 10),
}
SETS = pytest.mark.parametrize("name", SHAPES)


def make_parts(name):
    sizes = {"train": 120, "test": 40} | ({"extra": 30} if name == "svhn" else {})
    return published_sets.make_parts(sizes, *SHAPES[name])


def png(image, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, kind)
    return file.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def directory_name(name, label):
    return class_names.CLASS_NAMES[name][label].replace("/", "_")


def write_folders(directory, name, parts, class_name=directory_name):
    for part, (images, labels) in parts.items():
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            write(directory / part / class_name(name, label) / f"{i}.png", png(image))


def write_kaggle(directory, parts):
    labels = parts["train"][1]
    names = class_names.CLASS_NAMES["cifar10"]
    rows = [f"{i},{names[label]}" for i, label in enumerate(labels, 1)]
    write(directory / "trainLabels.csv", "\n".join(["id,label", *rows, ""]).encode())
    for part in ("train", "test"):
        for i, image in enumerate(parts[part][0], 1):
            write(directory / part / f"{i}.png", png(image))


def write_parquet(directory, name, parts, shards=2, names=None, **changes):
    """Writes the files of the hub, with its schema, class names and nested column of images."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    image_column = "img" if name.startswith("cifar") else "image"
    label_column = "fine_label" if name == "cifar100" else "label"
    names = names or class_names.CLASS_NAMES[name]
    features = {label_column: {"names": list(names), "_type": "ClassLabel"}}
    for part, (images, labels) in parts.items():
        pieces = zip(np.array_split(images, shards), np.array_split(labels, shards), strict=True)
        for shard, (some_images, some_labels) in enumerate(pieces):
            encoded = [{"bytes": png(image), "path": None} for image in some_images]
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            columns = {
                image_column: pa.array(encoded, kind),
                label_column: pa.array(some_labels, pa.int64()),
            }
            if name == "cifar100":
                columns["coarse_label"] = pa.array(some_labels // 5, pa.int64())
            table = pa.table(columns | changes)
            table = table.replace_schema_metadata(
                {"huggingface": json.dumps({"info": {"features": features}})}
            )
            path = directory / f"{part}-{shard:05d}-of-{shards:05d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path)


def sorted_split(images, labels):
    order = sorted(range(len(images)), key=lambda i: images[i].tobytes())
    return images[order], labels[order]


def assert_same_set(found, parts):
    """Checks images and labels in any order. SVHN joins its parts "train" and "extra"."""
    train = [parts[part] for part in ("train", "extra") if part in parts]
    train = [np.concatenate(arrays) for arrays in zip(*train, strict=True)]
    for split, expected in ((found.train, train), (found.test, parts["test"])):
        published_sets.assert_same(split, split.images, split.labels)  # Types.
        for mine, theirs in zip(
            sorted_split(split.images, split.labels), sorted_split(*expected), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)


def test_class_names():
    assert {name: len(known) for name, known in class_names.CLASS_NAMES.items()} == {
        name: classes for name, (_, classes) in SHAPES.items()
    }
    for name in ("cifar10", "cifar100"):
        assert list(class_names.CLASS_NAMES[name]) == sorted(set(class_names.CLASS_NAMES[name]))
    for text, label in (("ankle_boot", 9), ("T - shirt / top", 0), ("07", 7), ("10", None)):
        assert class_names.label_of("fashion_mnist", text) == label
    assert class_names.label_of("cifar100", "aquarium fish") == 1


def test_class_names_are_those_of_tfds():
    from tensorflow_datasets.image_classification import mnist

    source = pathlib.Path(mnist.__file__).read_text().partition("class FashionMNIST")[2]
    found = re.findall(r'^ +"(.*)",$', source, re.MULTILINE)
    assert tuple(found[:10]) == class_names.CLASS_NAMES["fashion_mnist"]


@SETS
@pytest.mark.parametrize(
    "class_name",
    [directory_name, lambda name, label: str(label), lambda name, label: f"{label:03d}"],
    ids=["name", "number", "padded"],
)
def test_folders(tmp_path, name, class_name, caplog):
    parts = make_parts(name)
    write_folders(tmp_path, name, parts, class_name)
    found = sources.load(name, str(tmp_path))
    assert_same_set(found, parts)
    assert "may have another order than in the authors' files" in caplog.text
    # The images are mixed: the last ones, which may be held out, are of many classes.
    assert len(set(found.train.labels[-20:].tolist())) > 5
    again = sources.load(name, str(tmp_path))
    published_sets.assert_same(again.train, found.train.images, found.train.labels)


def test_folders_of_superclasses(tmp_path):
    """fast.ai's CIFAR-100 is `train/SUPERCLASS/CLASS/*.png`."""
    parts = make_parts("cifar100")
    write_folders(
        tmp_path,
        "cifar100",
        parts,
        lambda name, label: f"group{label % 7}/{directory_name(name, label)}",
    )
    assert_same_set(sources.load("cifar100", str(tmp_path)), parts)


def test_grey_images_with_three_equal_channels(tmp_path):
    parts = make_parts("fashion_mnist")
    write_folders(tmp_path, "fashion_mnist", parts)
    path = next((tmp_path / "train").rglob("*.png"))
    Image.open(path).convert("RGB").save(path)
    assert_same_set(sources.load("fashion_mnist", str(tmp_path)), parts)


NOISE = np.random.default_rng(0)
COLOURS = NOISE.integers(0, 256, (28, 28, 3), np.uint8)


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("train/Bag/0.png", png(np.zeros((28, 29), np.uint8)), "0.png has 29 x 28 pixels instead "),
        ("train/Bag/0.png", png(COLOURS), "0.png has colours, but the set is grey"),
        ("train/Bag/0.png", png(COLOURS, "JPEG"), "0.png is a JPEG, whose pixels may differ"),
        ("train/Bag/0.png", png(COLOURS)[:100], "0.png is damaged"),
        ("train/Bag/0.png", b"", "0.png is damaged"),
        (
            "test/Boat/0.png",
            b"",
            "test/Boat is not named after a class of fashion_mnist: use",
        ),
        ("test/10/0.png", b"", "test/10 is not named after a class of fashion_mnist: use"),
    ],
)
def test_broken_folders(tmp_path, file, content, message):
    write_folders(tmp_path, "fashion_mnist", make_parts("fashion_mnist"))
    write(tmp_path / file, content)
    refuses("fashion_mnist", tmp_path, message)


def test_a_part_is_missing(tmp_path):
    parts = make_parts("svhn")
    del parts["extra"]
    write_folders(tmp_path, "svhn", parts)
    refuses("svhn", tmp_path, "has no 'extra' part of svhn: add it, or run `python -m launch.fetch")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    refuses("cifar10", tmp_path / "empty", "missing .*: run `python -m launch.fetch cifar10")


def test_kaggle(tmp_path):
    parts = make_parts("cifar10")
    write_kaggle(tmp_path, parts)
    refuses("cifar10", tmp_path, "has no labelled test images, because Kaggle publishes none: run")
    write_folders(tmp_path, "cifar10", {"test": parts["test"]})
    found = sources.load("cifar10", str(tmp_path))
    assert_same_set(found, parts)
    published_sets.assert_same(found.train, *parts["train"])  # In the order of the numbers.


@pytest.mark.parametrize(
    "table, message",
    [
        (b"", "trainLabels.csv begins with '' instead of 'id,label'"),
        (b"id;label\n1;cat\n", "trainLabels.csv begins with 'id;label'"),
        (b"id,label\n1,cow\n", "trainLabels.csv has the row '1,cow', which is not ID,CLASS"),
        (b"id,label\n../1,cat\n", "has the row '../1,cat'"),
        (b"id,label\n1\n", "has the row '1'"),
        (b"id,label\n999,cat\n", "cannot read .*/train/999.png: No such file"),
        (b"id,label\n", "trainLabels.csv has 0 images and 0 labels"),
        (b"\xff\xfe\0", "trainLabels.csv is damaged"),
    ],
)
def test_broken_table_of_kaggle(tmp_path, table, message):
    parts = make_parts("cifar10")
    write_kaggle(tmp_path, parts)
    write_folders(tmp_path, "cifar10", {"test": parts["test"]})
    (tmp_path / "trainLabels.csv").write_bytes(table)
    refuses("cifar10", tmp_path, message)


@SETS
@pytest.mark.parametrize("place", [".", "data", "snapshots/0123abc/plain_text"])
def test_parquet(tmp_path, name, place, caplog):
    parts = make_parts(name)
    write_parquet(tmp_path / place, name, parts)
    found = sources.load(name, str(tmp_path))
    assert_same_set(found, parts)
    published_sets.assert_same(found.test, *parts["test"])  # In the order of the files.
    assert "may have another order than in the authors' files" in caplog.text


def test_parquet_without_class_names_and_beside_photographs(tmp_path):
    parts = make_parts("svhn")
    write_parquet(tmp_path / "cropped_digits", "svhn", parts, names=["a"])
    refuses("svhn", tmp_path, "has the classes 'a': it belongs to another set")
    write_parquet(tmp_path / "cropped_digits", "svhn", parts)
    write_parquet(tmp_path / "full_numbers", "svhn", make_parts("svhn"))
    assert_same_set(sources.load("svhn", str(tmp_path)), parts)


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    write_parquet(tmp_path, "cifar10", make_parts("cifar10"))
    monkeypatch.setattr(
        parquet.importlib.util, "find_spec", lambda name: None if name == "pyarrow" else name
    )
    refuses("cifar10", tmp_path, "parquet needs pyarrow: `pip install pyarrow`")


def test_broken_parquet(tmp_path):
    parts = make_parts("cifar10")
    write_parquet(tmp_path, "cifar10", parts)
    refuses("cifar100", tmp_path, "has no column fine_label or img or image, only img, label")
    path = tmp_path / "train-00000-of-00002.parquet"
    content = path.read_bytes()
    for broken in (b"", content[:100], content[: len(content) // 2], content[:-20] + bytes(20)):
        path.write_bytes(broken)
        refuses("cifar10", tmp_path, f"{path} is damaged")
    path.unlink()
    refuses("cifar10", tmp_path, "has 1 file instead of the 00002 that belong to train-00001-of-")
    path.write_bytes(content)
    write(tmp_path / "copy" / path.name, content)
    refuses("cifar10", tmp_path, r"has train-\*.parquet in several directories, such as ")


def test_columns_of_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parts = make_parts("cifar10")
    parts["test"] = parts["train"]
    noise = [{"bytes": NOISE.bytes(3000)} for _ in range(120)]
    for column, values, message in (
        ("img", pa.array([b""] * 120), "has a column img of binary instead of bytes and path"),
        ("img", pa.array([{"bytes": "a"}] * 120), "has images of string instead of binary"),
        ("img", pa.array([{"bytes": bytes(3000)}] * 120), "unpacks to"),
        ("img", pa.array(noise), "is damaged"),
        (
            "img",
            pa.array([*noise[1:], None]),
            "has rows without an image",
        ),
        ("label", pa.array(["a"] * 120), "has labels of string, not integers"),
        ("label", pa.array([0] * 119 + [None]), "has rows without an image or a label"),
        ("label", pa.array([10] * 120), "has labels from 10 to 10 instead of 0 to 9"),
    ):
        write_parquet(tmp_path, "cifar10", parts, shards=1, **{column: values})
        refuses("cifar10", tmp_path, message)


def test_limits_of_parquet(tmp_path, monkeypatch):
    pq = pytest.importorskip("pyarrow.parquet")
    parts = make_parts("fashion_mnist")
    parts["test"] = parts["train"]
    write_parquet(tmp_path, "fashion_mnist", parts, shards=1)
    path = tmp_path / "train-00000-of-00001.parquet"
    unpacked = pq.read_metadata(path).row_group(0).total_byte_size
    ratio = 120 * 784 / path.stat().st_size
    for limit, at, below, message in (
        ("MAX_IMAGES", 120, 119, "has 120 images, more than the limit of 119"),
        ("MAX_BYTES", unpacked, unpacked - 1, f"has {unpacked:,} bytes of columns, more than"),
        ("MAX_INFLATION", ratio * 1.001, ratio * 0.999, "bytes unpacks to 94,080, more than"),
    ):
        monkeypatch.setattr(parquet, limit, below)
        refuses("fashion_mnist", tmp_path, message)
        monkeypatch.setattr(parquet, limit, at)
        assert len(sources.load("fashion_mnist", str(tmp_path)).train) == 120


def test_limits_of_png_files(tmp_path, monkeypatch):
    parts = make_parts("cifar10")
    write_kaggle(tmp_path, parts)
    write_folders(tmp_path, "cifar10", {"test": parts["test"]})
    largest = max(path.stat().st_size for path in tmp_path.rglob("*.png"))
    table = (tmp_path / "trainLabels.csv").stat().st_size
    for limit, size in (("MAX_PNG_BYTES", largest), ("MAX_CSV_BYTES", table)):
        with monkeypatch.context() as patch:
            patch.setattr(png_folders, limit, size)
            assert len(sources.load("cifar10", str(tmp_path)).train) == 120
            patch.setattr(png_folders, limit, size - 1)
            refuses("cifar10", tmp_path, f"has {size:,} bytes, more than the limit of {size - 1:,}")


def test_the_authors_files_take_precedence(tmp_path):
    parts = make_parts("fashion_mnist")
    published_sets.write_fashion_mnist(tmp_path, parts)
    write(tmp_path / "train" / "Bag" / "0.png", b"")
    published_sets.assert_same(sources.load("fashion_mnist", str(tmp_path)).train, *parts["train"])
    assert "tensorflow" not in sys.modules
