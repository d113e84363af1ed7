"""Tests that all forms of ImageNet give the same pictures, labels and order."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import published_sets
import pytest
import small_imagenet
from small_imagenet import CLASSES

from densenet_jax.data import imagenet, sources
from densenet_jax.data.pictures import decode
from densenet_jax.errors import InputError
from launch import prepare


@pytest.fixture(scope="module")
def pictures():
    return small_imagenet.train_pictures(), small_imagenet.validation_pictures()


@pytest.fixture(scope="module")
def copies(pictures, tmp_path_factory):
    """Writes the set in every form; returns the directory of the forms."""
    root = tmp_path_factory.mktemp("imagenet")
    small_imagenet.write_archives(root / "archives", *pictures)
    small_imagenet.write_directories(root / "directories", *pictures)
    copy = small_imagenet.write_with_tfds(root / "array_record", *pictures)
    shutil.copytree(copy, root / "tfrecord" / copy.relative_to(root / "array_record"))
    published_sets.to_tfrecord(root / "tfrecord" / copy.relative_to(root / "array_record"))
    prepare.main(["--data_directory", str(root / "archives"), "--out", str(root / "prepared")])
    return root


FORMS = ("archives", "directories", "array_record", "tfrecord", "prepared")


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_hold_the_same_pictures_in_the_same_order(copies, pictures, form):
    train, validation = pictures
    found, expected = imagenet.find(copies / form), imagenet.find(copies / "array_record")
    for part in ("train", "test"):
        assert [found[part][i] for i in range(len(found[part]))] == [
            expected[part][i] for i in range(len(expected[part]))
        ]
    # The pictures that were written are found.
    labels = list(imagenet.classes())
    written = {
        f: (data, labels.index(c)) for c, files in train.items() for f, data in files.items()
    }
    read = [found["train"][i] for i in range(len(found["train"]))]
    assert {e.file_name: (e.data, e.label) for e in read} == written
    assert {found["test"][i].file_name for i in range(len(found["test"]))} == set(validation)
    assert "tensorflow" not in sys.modules


def test_labels_do_not_depend_on_the_classes_present(copies):
    """Labels are those of all 1000 classes, though only three classes are present."""
    dataset = sources.load("imagenet", str(copies / "directories"))
    labels = {dataset.train[i].label for i in range(len(dataset.train))}
    assert labels == {list(imagenet.classes()).index(name) for name in CLASSES}
    assert dataset.num_classes == 1000 and dataset.image_shape == (224, 224, 3)


def test_holdout_and_examples_follow_the_order_of_tfds(copies):
    whole = sources.load("imagenet", str(copies / "archives"))
    dataset = sources.load("imagenet", str(copies / "tfrecord"), holdout=4, examples=6)
    sizes = {"train": 6, "validation": 4, "test": 9}
    assert {name: len(getattr(dataset, name)) for name in sizes} == sizes
    assert [dataset.train[i] for i in range(6)] == [whole.train[i] for i in range(6)]
    assert [dataset.validation[i] for i in range(4)] == [whole.train[20 + i] for i in range(4)]
    assert not whole.official


def test_tfds_reads_a_prepared_copy(copies, pictures):
    import tensorflow_datasets as tfds

    train = tfds.data_source(
        "imagenet2012", split="train", data_dir=copies / "prepared", download=False
    )
    by_name = {data["file_name"].decode(): data for data in (train[i] for i in range(len(train)))}
    name = CLASSES[2]
    written = np.asarray(decode(pictures[0][name][f"{name}_1000.JPEG"]))
    np.testing.assert_array_equal(by_name[f"{name}_1000.JPEG"]["image"], written)
    assert (
        train.dataset_info.features["label"].int2str(by_name[f"{name}_1000.JPEG"]["label"]) == name
    )


def refuses(message, directory):
    with pytest.raises(InputError, match=message) as caught:
        sources.load("imagenet", directory and str(directory))
    assert "\n" not in str(caught.value)


def test_errors_name_missing_and_damaged_files(copies, tmp_path):
    refuses("imagenet needs data.directory: the directory with ILSVRC2012_img_train.tar and ", None)
    refuses(
        f"no ImageNet in {tmp_path}/nowhere: set data.directory to the directory",
        tmp_path / "nowhere",
    )
    train = shutil.copy(copies / "archives" / "ILSVRC2012_img_train.tar", tmp_path)
    refuses(f"cannot read {tmp_path}/ILSVRC2012_img_val.tar: No such file", tmp_path)
    os.truncate(train, 300_000)
    refuses(f"{train} is damaged", tmp_path)
    Path(train).write_bytes(small_imagenet.tar({}))
    refuses(f"{train} is damaged .*contains no pictures", tmp_path)
    Path(train).write_bytes(small_imagenet.tar({"cats.tar": small_imagenet.tar({"cat.JPEG": b""})}))
    refuses(f"{train} .*cat.JPEG is not named after a class of ImageNet", tmp_path)
    shutil.copy(copies / "archives" / "ILSVRC2012_img_train.tar", tmp_path)
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(small_imagenet.tar({"cat.JPEG": b""}))
    refuses("img_val.tar .*cat.JPEG is not a validation picture of ImageNet", tmp_path)
    shutil.copytree(copies / "directories" / "train", tmp_path / "directories" / "train")
    refuses(f"missing {tmp_path}/directories/val/CLASS", tmp_path / "directories")
    (tmp_path / "directories" / "train" / CLASSES[0]).rename(
        tmp_path / "directories" / "train" / "fish"
    )
    shutil.copytree(copies / "directories" / "val", tmp_path / "directories" / "val")
    refuses(
        r"not named after ImageNet's classes, such as fish \(1 in all\)",
        tmp_path / "directories",
    )


def test_a_truncated_copy_is_refused(copies, tmp_path):
    shutil.copytree(copies / "tfrecord", tmp_path / "copy")
    shard = next((tmp_path / "copy").glob("*/*/*train*-00001-of-00002"))
    os.truncate(shard, shard.stat().st_size - 1000)
    refuses("is cut short", tmp_path / "copy")


def write_broken(directory, pictures):
    """Writes the set as directories with one truncated picture; returns the name of the picture."""
    train, validation = pictures
    train = {name: dict(files) for name, files in train.items()}
    name = f"{CLASSES[1]}_1000.JPEG"
    train[CLASSES[1]][name] = train[CLASSES[1]][name][:3000]
    small_imagenet.write_directories(directory, train, validation)
    return name


def test_broken_pictures_are_not_copied(pictures, tmp_path, capsys, monkeypatch):
    """Broken pictures are named and counted; finished files are kept for the next command."""
    monkeypatch.setattr("densenet_jax.data.prepare.SHARD", 10)
    name = write_broken(tmp_path / "in", pictures)
    command = ["--data_directory", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    with pytest.raises(InputError, match=r"1 of 33 pictures cannot be read: .*--skip_broken"):
        prepare.main(command)
    assert name in capsys.readouterr().err
    unfinished = tmp_path / "out" / "imagenet2012" / "5.1.0.incomplete"
    kept = {path: path.stat().st_mtime_ns for path in unfinished.iterdir()}
    # Three training files and one validation file, without the file of the broken picture.
    assert len(kept) == 3 and not any(path.name.startswith(".") for path in kept)
    prepare.main([*command, "--skip_broken"])
    assert "holds 32 pictures" in capsys.readouterr().out
    final = unfinished.with_name("5.1.0")
    assert all((final / path.name).stat().st_mtime_ns == time for path, time in kept.items())
    found = imagenet.find(tmp_path / "out")["train"]
    assert len(found) == 23 and name not in {found[i].file_name for i in range(23)}
    with pytest.raises(InputError, match="exists already"):
        prepare.main(command)


def test_pictures_over_the_limit_are_named(copies, tmp_path, capsys):
    command = ["--data_directory", str(copies / "archives"), "--out", str(tmp_path / "out")]
    with pytest.raises(InputError, match="4 of 33 pictures cannot be read"):
        prepare.main([*command, "--max_pixels=800000"])
    errors = capsys.readouterr().err.splitlines()
    words = "has 900,000 pixels, more than the limit of 800,000: make it smaller, or raise"
    assert len(errors) == 4 and all(words in line for line in errors)
