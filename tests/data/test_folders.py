"""A folder of pictures for each class: ImageNet, and anybody's."""

import numpy as np
import pytest
from PIL import Image
from test_pictures import gradient

from densenet_jax.data import folders, sources
from densenet_jax.data.pictures import CentralCrop
from densenet_jax.errors import InputError


@pytest.fixture
def folder(tmp_path):
    sizes = {"train": [(300, 400), (256, 256), (500, 260)], "val": [(1000, 300)]}
    for part, all_sizes in sizes.items():
        for i, size in enumerate(all_sizes):
            path = tmp_path / part / ("cat", "dog")[i % 2] / f"{i}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            gradient(*size).save(path, "JPEG", quality=95)
    return tmp_path


def test_reads_the_tree(folder, caplog):
    (folder / "train" / "cat" / "notes.txt").write_text("no picture")
    found = sources.load("imagenet", str(folder))
    assert found.train.images.shape == (3, 224, 224, 3) and found.train.images.dtype == np.uint8
    assert found.train.labels.tolist() == [0, 0, 1] and found.test.labels.tolist() == [0]
    assert found.num_classes == 1000 and not found.official
    assert "imagenet is not the official set: it has 3 train, 1 test images" in caplog.text


def test_mistakes(folder, tmp_path):
    def refuses(message, directory=folder):
        with pytest.raises(InputError, match=message) as caught:
            sources.load("imagenet", directory and str(directory))
        assert "\n" not in str(caught.value)

    refuses("imagenet needs data.directory: a folder that holds train and val", None)
    refuses(f"Missing {tmp_path}/nowhere/train/CLASS/", tmp_path / "nowhere")
    damaged = folder / "val" / "cat" / "0.JPEG"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    refuses(f"{damaged} is damaged")
    damaged.write_bytes(whole)
    (folder / "val" / "cow").mkdir()
    damaged.rename(folder / "val" / "cow" / "0.JPEG")
    refuses("val/cow is of a class that has no pictures to train on")


def test_more_pictures_than_memory_holds(folder):
    with pytest.raises(InputError, match="4 pictures, which take 12,000 GB"):
        folders.read(folders.find(folder), CentralCrop(10**6, 10**6))


def test_the_whole_set_is_not_planned_for():
    with pytest.raises(InputError, match=r"set data\.name to synthetic_imagenet"):
        sources.describe("imagenet")


def grey(level, path, size=(60, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, level, np.uint8)).save(path)


def test_anybodys_pictures(tmp_path):
    """Six of moles and seven of voles, of which nobody has said what they are for."""
    for i in range(6):
        grey(10 + i, tmp_path / "mole" / f"{i}.png")
    for i in range(7):
        grey(100 + i, tmp_path / "vole" / f"{i}.PNG")
    found = sources.load("folder", str(tmp_path), image_size=20)
    assert found.classes == ("mole", "vole") and found.num_classes == 2 and found.official
    assert found.train.images.shape == (9, 20, 20, 3)
    # Every fifth is for testing.
    assert found.test.images[:, 0, 0, 0].tolist() == [10, 15, 100, 105]
    assert found.test.labels.tolist() == [0, 0, 1, 1]
    assert found.train.labels.tolist() == [0] * 4 + [1] * 5


@pytest.mark.parametrize("name", ["val", "test"])
def test_anybodys_pictures_divided(tmp_path, name):
    for part, level in (("train", 1), (name, 2)):
        grey(level, tmp_path / part / "mole" / "0.png")
    found = sources.load("folder", str(tmp_path), image_size=8)
    assert (found.train.images == 1).all() and (found.test.images == 2).all()


def test_folders_without_pictures(tmp_path):
    with pytest.raises(InputError, match=r"folder needs data.directory: .* or those folders"):
        sources.load("folder")
    with pytest.raises(InputError, match=r"Missing .*CLASS"):
        sources.load("folder", str(tmp_path))


def test_no_folder_is_planned_for():
    with pytest.raises(InputError, match="folder cannot be planned for"):
        sources.describe("folder")
