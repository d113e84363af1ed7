"""ImageNet in all its forms: the same pictures, labels and order."""

import shutil
import sys

import published_sets
import pytest
import small_imagenet

from densenet_jax.data import imagenet
from launch import prepare


@pytest.fixture(scope="module")
def pictures():
    return small_imagenet.train_pictures(), small_imagenet.validation_pictures()


@pytest.fixture(scope="module")
def copies(pictures, tmp_path_factory):
    """Folders with the set in every form."""
    root = tmp_path_factory.mktemp("imagenet")
    small_imagenet.write_archives(root / "archives", *pictures)
    small_imagenet.write_folders(root / "folders", *pictures)
    copy = small_imagenet.write_with_tfds(root / "array_record", *pictures)
    shutil.copytree(copy, root / "tfrecord" / copy.relative_to(root / "array_record"))
    published_sets.to_tfrecord(root / "tfrecord" / copy.relative_to(root / "array_record"))
    prepare.main(["--data_directory", str(root / "archives"), "--out", str(root / "prepared")])
    return root


FORMS = ("archives", "folders", "array_record", "tfrecord", "prepared")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_in_the_same_order(copies, pictures, form):
    train, validation = pictures
    found, expected = imagenet.find(copies / form), imagenet.find(copies / "array_record")
    for part in ("train", "test"):
        assert [found[part][i] for i in range(len(found[part]))] == [
            expected[part][i] for i in range(len(expected[part]))
        ]
    # And these are what was written.
    labels = list(imagenet.classes())
    written = {
        f: (data, labels.index(c)) for c, files in train.items() for f, data in files.items()
    }
    read = [found["train"][i] for i in range(len(found["train"]))]
    assert {e.file_name: (e.data, e.label) for e in read} == written
    assert {found["test"][i].file_name for i in range(len(found["test"]))} == set(validation)
    assert "tensorflow" not in sys.modules
