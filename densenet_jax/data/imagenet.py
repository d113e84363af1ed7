"""ImageNet (ILSVRC 2012), in the form of its archives, of folders, or of a copy for TFDS.

Whatever the form, its pictures come in the same order: that of TensorFlow Datasets.
"""

import importlib.resources
import pathlib
import tarfile
from collections.abc import Iterator, Sequence

import numpy as np

from densenet_jax.data import folders, tfds_copy
from densenet_jax.data.archives import naming
from densenet_jax.data.encoded import Pictures, Pieces
from densenet_jax.data.tfds_copy import progress
from densenet_jax.errors import InputError
from densenet_jax.files import open_regular

TFDS_NAME = "imagenet2012"
SPLITS = {"train": "train", "test": "validation"}  # What TFDS calls our parts.
ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "test": "ILSVRC2012_img_val.tar"}
LAYOUT = (
    f"the folder with {' and '.join(ARCHIVES.values())} from https://image-net.org, with a copy "
    f"prepared by launch.prepare or TFDS ({TFDS_NAME}), or with {folders.DIVIDED}"
)


def classes() -> dict[str, str]:
    """The names of the 1000 classes, in order, by their identifiers in WordNet."""
    text = importlib.resources.files("densenet_jax").joinpath("imagenet_classes.txt").read_text()
    return dict(line.split(" ", 1) for line in text.splitlines())


def find(folder: pathlib.Path) -> dict[str, Pictures]:
    """The pictures "train" and "test" in `folder`. Reads no picture, but looks through archives.

    A copy for TFDS comes first, as it is the fastest; then archives, then folders.

    Raises InputError if there is none of the three, or one that is damaged or incomplete.
    """
    if copy := tfds_copy.find(folder, TFDS_NAME):
        return {part: tfds_copy.pictures(copy, split) for part, split in SPLITS.items()}
    if any((folder / archive).exists() for archive in ARCHIVES.values()):
        parts = {part: _in_archive(folder, part) for part in SPLITS}
    elif part_folders := folders.divided(folder):
        parts = {part: _in_folders(folder, path) for part, path in part_folders.items()}
    else:
        raise InputError(f"there is no ImageNet in {folder}: set data.directory to {LAYOUT}.")
    return {part: pictures.in_stored_order(SPLITS[part]) for part, pictures in parts.items()}


def _in_archive(folder: pathlib.Path, part: str) -> Pieces:
    path = folder / ARCHIVES[part]
    with naming(path):
        members = [*_train_members(path)] if part == "train" else [*_members(path)]
        if not members:
            raise ValueError("it holds no pictures")
        names, offsets, lengths = zip(*members, strict=True)
        labels = _train_labels(names) if part == "train" else _validation_labels(names)
    which = np.zeros(len(names), int)
    return Pieces(folder, [path.name], names, labels, which, np.array(offsets), np.array(lengths))


def _members(path: pathlib.Path, start: int = 0) -> Iterator[tuple[str, int, int]]:
    """Name, place and length of the files in an archive that begins at a byte of `path`."""
    with open_regular(path) as file:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                name = pathlib.PurePath(member.name).name
                if member.isfile() and not folders.is_system_file(name):
                    yield name, member.offset_data, member.size


def _train_members(path: pathlib.Path) -> Iterator[tuple[str, int, int]]:
    """Of the archives in the archive, one for each class."""
    archives = list(_members(path))
    for _, start, _ in progress(archives, f"looking through {path.name}", len(archives)):
        yield from _members(path, start)


def _train_labels(names: Sequence[str]) -> np.ndarray:
    """Of pictures such as n01440764_10026.JPEG."""
    label_of = _labels_by_identifier()
    for name in names:
        if name.split("_")[0] not in label_of:
            raise ValueError(f"{name} is named after none of ImageNet's classes")
    return np.array([label_of[name.split("_")[0]] for name in names], np.int32)


def _validation_labels(names: Sequence[str]) -> np.ndarray:
    """Of pictures such as ILSVRC2012_val_00000001.JPEG, by a list that comes with TFDS."""
    package = importlib.resources.files("tensorflow_datasets")
    listed = package.joinpath("datasets/imagenet2012/validation_labels.txt").read_text().split()
    label_of = _labels_by_identifier()
    identifiers = {f"ILSVRC2012_val_{i + 1:08d}.JPEG": name for i, name in enumerate(listed)}
    for name in names:
        if name not in identifiers:
            raise ValueError(f"{name} is none of ImageNet's validation pictures")
    return np.array([label_of[identifiers[name]] for name in names], np.int32)


def _in_folders(folder: pathlib.Path, part_folder: pathlib.Path) -> Pieces:
    found, label_of = folders.class_folders(part_folder), _labels_by_identifier()
    if strangers := [name for name in found if found[name] and name not in label_of]:
        raise InputError(
            f"{part_folder} has folders that are named after none of ImageNet's classes, such as "
            f"{strangers[0]} ({len(strangers)} in all): the names are n01440764 and so on."
        )
    return folders.pieces(folder, found, label_of)


def _labels_by_identifier() -> dict[str, int]:
    return {identifier: label for label, identifier in enumerate(classes())}
