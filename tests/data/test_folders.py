"""Anybody's pictures, a folder for each class."""

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
    """Grey and label of each, in order of grey."""
    found = [pictures[i] for i in range(len(pictures))]
    return sorted((np.asarray(decode(f.data))[0, 0, 0].item(), f.label) for f in found)


def test_anybodys_pictures(tmp_path):
    """Six of moles and seven of voles, of which nobody has said what they are for."""
    for i in range(6):
        grey(10 + i, tmp_path / "mole" / f"{i}.png")
    for i in range(7):
        grey(100 + i, tmp_path / "vole" / f"{i}.PNG")
    found = sources.load("folder", str(tmp_path), image_size=20)
    assert found.classes == ("mole", "vole") and found.num_classes == 2 and found.official
    assert found.image_shape == (20, 20, 3) and found.crop == CentralCrop(20, 20, "bicubic")
    # Every fifth is for testing.
    assert levels(found.test) == [(10, 0), (15, 0), (100, 1), (105, 1)]
    assert levels(found.train) == [
        *((10 + i, 0) for i in range(1, 5)),
        *((100 + i, 1) for i in (1, 2, 3, 4, 6)),
    ]


@pytest.mark.parametrize("name", ["val", "test"])
def test_anybodys_pictures_divided(tmp_path, name):
    for part, level in (("train", 1), (name, 2)):
        grey(level, tmp_path / part / "mole" / "0.png")
        grey(level + 10, tmp_path / part / "vole" / "0.png")
    found = sources.load("folder", str(tmp_path))
    assert levels(found.train) == [(1, 0), (11, 1)] and levels(found.test) == [(2, 0), (12, 1)]
    grey(3, tmp_path / name / "cow" / "0.png")
    with pytest.raises(InputError, match=f"{name}/cow is of a class that has no pictures to train"):
        sources.load("folder", str(tmp_path))


def test_every_format_that_pillow_reads_is_a_picture(tmp_path, caplog):
    """42 pictures of many endings, in nested folders, beside what is never data."""
    endings = [".jpg", ".JPEG", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jfif", ".jp2"]
    for name in ("mole", "vole"):
        for i in range(21):
            folder = tmp_path / name / ("field" if i % 2 else "x.jpg" if i % 3 else "")
            grey(i, folder / f"{i}{endings[i % len(endings)]}")
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
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"{tmp_path}: skipped files: 3 .txt, 10 hidden or system, 1 outside class folders, "
        "2 without ending",
        f"{tmp_path}: no pictures in class folders empty, texts",
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
def test_divided_folders_have_many_names(tmp_path, caplog, train, test):
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


def test_half_of_a_division_is_an_error_that_names_what_is_there(tmp_path):
    grey(1, tmp_path / "train" / "mole" / "0.png")
    grey(1, tmp_path / "held_out" / "mole" / "0.png")
    with pytest.raises(InputError, match=r"missing .*/val/CLASS.* has held_out, train"):
        sources.load("folder", str(tmp_path))


def test_parts_without_class_folders_are_no_classes(tmp_path):
    for part in ("train", "val"):
        grey(1, tmp_path / part / "0.png")
    with pytest.raises(InputError, match=r"missing .*/train/CLASS"):
        sources.load("folder", str(tmp_path))


def test_a_class_may_be_called_like_a_part(tmp_path):
    for name in ("train", "ship"):
        for i in range(2):
            grey(1, tmp_path / name / f"{i}.png")
    assert sources.load("folder", str(tmp_path)).classes == ("ship", "train")


@pytest.mark.parametrize("folder", ["pets", "train"])
def test_one_class_alone_is_the_wrong_folder(tmp_path, folder):
    """The set is in a folder more, beside an empty one; or it has one class in truth."""
    for name in (folder, "val"):
        grey(1, tmp_path / name / "mole" / "0.png")
        grey(1, tmp_path / name / "mole" / "1.png")
    if folder == "pets":
        (tmp_path / "val").rename(tmp_path / "docs")
        (tmp_path / "docs" / "mole" / "0.png").unlink()
        (tmp_path / "docs" / "mole" / "1.png").unlink()
    name = "pets" if folder == "pets" else "mole"
    with pytest.raises(InputError, match=f"has one class only, {name}: set data.directory"):
        sources.load("folder", str(tmp_path))


def test_the_current_directory(tmp_path, monkeypatch):
    for part, name in itertools.product(("train", "val"), ("mole", "vole")):
        grey(7, tmp_path / part / name / "0.png")
    monkeypatch.chdir(tmp_path)
    for folder in (".", "./", "train/.."):
        assert levels(sources.load("folder", folder).train) == [(7, 0), (7, 1)]


def test_broken_links_and_special_files_are_counted(tmp_path, caplog):
    for name in ("mole", "vole"):
        for i in range(2):
            grey(7, tmp_path / name / f"{i}.png")
    (tmp_path / "sole").symlink_to(tmp_path / "nowhere")
    (tmp_path / "mole" / "2.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "mole" / "3.jpg")
    assert len(sources.load("folder", str(tmp_path)).train) == 2
    assert "skipped files: 3 broken or special" in caplog.text


def test_folders_without_pictures(tmp_path):
    with pytest.raises(InputError, match=r"folder needs data.directory: .* or those folders"):
        sources.load("folder")
    with pytest.raises(InputError, match=r"missing .*CLASS"):
        sources.load("folder", str(tmp_path))
    with pytest.raises(InputError, match=r"there is no folder .*nowhere: set data"):
        sources.load("folder", str(tmp_path / "nowhere"))


def test_no_folder_is_planned_for():
    with pytest.raises(InputError, match="a folder cannot be planned for"):
        sources.describe("folder")
