"""Anybody's pictures, a folder for each class."""

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
    found = sources.load("folder", str(tmp_path))
    assert levels(found.train) == [(1, 0)] and levels(found.test) == [(2, 0)]
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
        f"{tmp_path}: skipped 3 .txt, 10 hidden or system file, 1 outside class folders, "
        "2 without ending",
        f"{tmp_path}: no pictures in class folders empty, texts",
    ]


@pytest.mark.parametrize(
    "train, test", [("Train", "Valid"), ("train", "validation"), ("TRAINING", "testing")]
)
def test_divided_folders_have_many_names(tmp_path, caplog, train, test):
    grey(1, tmp_path / train / "mole" / "0.png")
    grey(2, tmp_path / test / "mole" / "0.png")
    grey(3, tmp_path / "annotations" / "0.png")
    found = sources.load("folder", str(tmp_path))
    assert levels(found.train) == [(1, 0)] and levels(found.test) == [(2, 0)]
    assert f"{train} and {test} are read, annotations not" in caplog.text
    paths, _ = folders.labelled(tmp_path, ["mole"])
    assert [path.parent.parent.name for path in paths] == [test]


def test_half_of_a_division_is_an_error_that_names_what_is_there(tmp_path):
    grey(1, tmp_path / "train" / "mole" / "0.png")
    grey(1, tmp_path / "held_out" / "mole" / "0.png")
    with pytest.raises(InputError, match=r"Missing .*/val/CLASS.* has held_out, train"):
        sources.load("folder", str(tmp_path))


def test_classes_may_be_called_like_parts(tmp_path):
    for name in ("train", "test", "ship"):
        grey(1, tmp_path / name / "0.png")
        grey(1, tmp_path / name / "1.png")
    assert sources.load("folder", str(tmp_path)).classes == ("ship", "test", "train")


def test_one_class_alone_is_the_wrong_folder(tmp_path):
    grey(1, tmp_path / "pets" / "mole" / "0.png")
    with pytest.raises(InputError, match="has one class only, pets: set"):
        sources.load("folder", str(tmp_path))


def test_folders_without_pictures(tmp_path):
    with pytest.raises(InputError, match=r"folder needs data.directory: .* or those folders"):
        sources.load("folder")
    with pytest.raises(InputError, match=r"Missing .*CLASS"):
        sources.load("folder", str(tmp_path))


def test_no_folder_is_planned_for():
    with pytest.raises(InputError, match="a folder cannot be planned for"):
        sources.describe("folder")
