"""Tests sets of pictures with a directory for each class."""

import itertools
import os

import numpy as np
import pytest
from PIL import Image

from densenet_jax.data import folders, sources
from densenet_jax.data.pictures import CentralCrop, decode
from densenet_jax.errors import InputError


def grey(level, path, size=(60, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, level, np.uint8)).save(path)


def levels(pictures):
    """Returns the grey level and the label of each picture, sorted by grey level."""
    found = [pictures[i] for i in range(len(pictures))]
    return sorted((np.asarray(decode(f.data))[0, 0, 0].item(), f.label) for f in found)


def test_an_undivided_set(tmp_path):
    """Reads six pictures of moles and seven of voles."""
    for i in range(6):
        grey(10 + i, tmp_path / "mole" / f"{i}.png")
    for i in range(7):
        grey(100 + i, tmp_path / "vole" / f"{i}.PNG")
    found = sources.load("folder", str(tmp_path), image_size=20)
    assert found.classes == ("mole", "vole") and found.num_classes == 2 and found.official
    assert found.image_shape == (20, 20, 3) and found.crop == CentralCrop(20, 20, "bicubic")
    # Every fifth picture is a test picture.
    assert levels(found.test) == [(10, 0), (15, 0), (100, 1), (105, 1)]
    assert levels(found.train) == [
        *((10 + i, 0) for i in range(1, 5)),
        *((100 + i, 1) for i in (1, 2, 3, 4, 6)),
    ]


@pytest.mark.parametrize("name", ["val", "test"])
def test_a_divided_set(tmp_path, name):
    for part, level in (("train", 1), (name, 2)):
        grey(level, tmp_path / part / "mole" / "0.png")
        grey(level + 10, tmp_path / part / "vole" / "0.png")
    found = sources.load("folder", str(tmp_path))
    assert levels(found.train) == [(1, 0), (11, 1)] and levels(found.test) == [(2, 0), (12, 1)]
    grey(3, tmp_path / name / "cow" / "0.png")
    with pytest.raises(InputError, match=f"{name}/cow has test pictures of a class without train"):
        sources.load("folder", str(tmp_path))


def test_all_formats_are_read_and_other_files_are_skipped(tmp_path, caplog):
    """Reads 42 pictures of many formats in nested directories, among other files."""
    endings = [".jpg", ".JPEG", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jfif", ".jp2"]
    for name in ("mole", "vole"):
        for i in range(21):
            directory = tmp_path / name / ("field" if i % 2 else "x.jpg" if i % 3 else "")
            grey(i, directory / f"{i}{endings[i % len(endings)]}")
        for junk in (".DS_Store", "Thumbs.db", "._0.jpg", "notes.txt", "README"):
            (tmp_path / name / junk).write_bytes(b"no picture")
    for junk in (".ipynb_checkpoints", "__MACOSX", "empty", "texts"):
        grey(200, tmp_path / junk / ".hidden.png")
    (tmp_path / "texts" / "a.TXT").write_text("no picture")
    (tmp_path / "labels.csv").write_text("no picture")
    found = sources.load("folder", str(tmp_path))
    assert found.classes == ("mole", "vole")
    assert len(found.train) + len(found.test) == 42
    assert {label for _, label in levels(found.test)} == {0, 1}
    logged = [record.getMessage() for record in caplog.records]
    assert logged == [
        f"{tmp_path}: skipped files: 3 .txt, 10 hidden or system, 1 outside class directories, "
        "2 without ending",
        f"{tmp_path}: no pictures in class directories empty, texts",
    ]


@pytest.mark.parametrize(
    "train, test",
    [
        ("Train", "Valid"),
        ("train", "validation"),
        ("TRAINING", "testing"),
        ("train_set", "Test Set"),
    ],
)
def test_names_of_the_parts(tmp_path, caplog, train, test):
    for name in ("mole", "vole"):
        grey(1, tmp_path / train / name / "0.png")
        grey(2, tmp_path / test / name / "0.png")
    grey(3, tmp_path / "annotations" / "0.png")
    (tmp_path / "labels.csv").write_text("no picture")
    found = sources.load("folder", str(tmp_path))
    assert levels(found.train) == [(1, 0), (1, 1)] and levels(found.test) == [(2, 0), (2, 1)]
    assert f"reads {train} and {test}, not annotations, labels.csv" in caplog.text
    paths, labels, _ = folders.labelled(tmp_path, ["vole", "mole"])
    assert {path.parent.parent.name for path in paths} == {test} and labels.tolist() == [1, 0]


def test_a_missing_part_is_an_error_that_lists_the_entries(tmp_path):
    grey(1, tmp_path / "train" / "mole" / "0.png")
    grey(1, tmp_path / "held_out" / "mole" / "0.png")
    with pytest.raises(InputError, match=r"missing .*/val/CLASS.* has held_out, train"):
        sources.load("folder", str(tmp_path))


def test_parts_without_class_directories_are_not_classes(tmp_path):
    for part in ("train", "val"):
        grey(1, tmp_path / part / "0.png")
    with pytest.raises(InputError, match=r"missing .*/train/CLASS"):
        sources.load("folder", str(tmp_path))


def test_a_class_may_have_the_name_of_a_part(tmp_path):
    for name in ("train", "ship"):
        for i in range(2):
            grey(1, tmp_path / name / f"{i}.png")
    assert sources.load("folder", str(tmp_path)).classes == ("ship", "train")


@pytest.mark.parametrize("name", ["pets", "train"])
def test_one_class_is_an_error(tmp_path, name):
    """Covers a set that is one level deeper, and a set that really has only one class."""
    for part in (name, "val"):
        grey(1, tmp_path / part / "mole" / "0.png")
        grey(1, tmp_path / part / "mole" / "1.png")
    if name == "pets":
        (tmp_path / "val").rename(tmp_path / "docs")
        (tmp_path / "docs" / "mole" / "0.png").unlink()
        (tmp_path / "docs" / "mole" / "1.png").unlink()
    found = "pets" if name == "pets" else "mole"
    with pytest.raises(InputError, match=f"has only one class, {found}: set data.directory"):
        sources.load("folder", str(tmp_path))


def test_the_current_directory(tmp_path, monkeypatch):
    for part, name in itertools.product(("train", "val"), ("mole", "vole")):
        grey(7, tmp_path / part / name / "0.png")
    monkeypatch.chdir(tmp_path)
    for directory in (".", "./", "train/.."):
        assert levels(sources.load("folder", directory).train) == [(7, 0), (7, 1)]


def test_broken_links_and_special_files_are_counted(tmp_path, caplog):
    for name in ("mole", "vole"):
        for i in range(2):
            grey(7, tmp_path / name / f"{i}.png")
    (tmp_path / "sole").symlink_to(tmp_path / "nowhere")
    (tmp_path / "mole" / "2.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "mole" / "3.jpg")
    assert len(sources.load("folder", str(tmp_path)).train) == 2
    assert "skipped files: 3 broken or special" in caplog.text


def test_errors_without_pictures(tmp_path):
    with pytest.raises(
        InputError,
        match=r"folder needs data.directory: .* or a directory with the class directories",
    ):
        sources.load("folder")
    with pytest.raises(InputError, match=r"missing .*CLASS"):
        sources.load("folder", str(tmp_path))
    with pytest.raises(InputError, match=r"there is no directory .*nowhere: set data"):
        sources.load("folder", str(tmp_path / "nowhere"))


def test_a_folder_cannot_be_described():
    with pytest.raises(InputError, match="folder has no official set to plan for"):
        sources.describe("folder")


def test_links_that_lead_back_are_skipped(tmp_path, caplog):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "deeper").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "deeper" / "b.png")
    (tmp_path / "deeper" / "back").symlink_to(tmp_path)
    assert [path.name for path in folders.below(tmp_path)] == ["a.png", "b.png"]
    assert "skipped files: 1 broken or special" in caplog.text
