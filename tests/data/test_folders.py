"""Anybody's pictures, a folder for each class."""

import numpy as np
import pytest
from PIL import Image

from densenet_jax.data import sources
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


def test_folders_without_pictures(tmp_path):
    with pytest.raises(InputError, match=r"folder needs data.directory: .* or those folders"):
        sources.load("folder")
    with pytest.raises(InputError, match=r"Missing .*CLASS"):
        sources.load("folder", str(tmp_path))


def test_no_folder_is_planned_for():
    with pytest.raises(InputError, match="a folder cannot be planned for"):
        sources.describe("folder")
