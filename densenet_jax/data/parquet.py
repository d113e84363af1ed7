"""Reads published sets from the parquet files of the Hugging Face hub, with pyarrow."""

import importlib.util
import json
import math
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from densenet_jax.data import png_images
from densenet_jax.data.archives import Piece, naming_file
from densenet_jax.data.class_names import label_of
from densenet_jax.data.facts import FACTS
from densenet_jax.data.tfds_copy import progress
from densenet_jax.errors import InputError, UnsupportedFile, counted
from densenet_jax.files import open_regular

MAX_IMAGES = 2**20  # Images in one file; SVHN's "extra" part has 531,131.
MAX_INFLATION = 20  # Ratio of the images to their file; 1.3 for CIFAR-10.
MAX_BYTES = 2**30  # The unpacked columns of a file; those of SVHN's "extra" part have 0.9 GB.
_MAX_DEPTH = 4  # Directories between `directory` and a file; the hub's cache has 3.
_BATCH = 256  # Images decoded at a time; more use more memory.
_IMAGE_COLUMNS = ("img", "image")


def find(name: str, directory: pathlib.Path, part: str) -> Callable[[], Piece] | None:
    """Returns a function that reads `**/PART-*.parquet`, or None if there are no such files.

    Raises InputError if a file of several is missing, if several directories have such files, or if
    pyarrow is not installed.
    """
    paths = sorted(
        path
        for depth in range(_MAX_DEPTH + 1)
        for path in directory.glob("*/" * depth + f"{part}-*.parquet")
        if "full_numbers" not in path.parts  # SVHN's photographs of house numbers.
    )
    if not paths:
        return None
    directories = sorted({str(path.parent) for path in paths})
    if len(directories) > 1:
        raise InputError(
            f"{directory} has {part}-*.parquet in several directories, such as {directories[0]} "
            f"and {directories[1]}: set data.directory to one of them"
        )
    _check_complete(paths)
    if importlib.util.find_spec("pyarrow") is None:
        raise InputError(f"{paths[0]} needs pyarrow: `pip install pyarrow`")
    return lambda: _read(name, paths, part)


def _check_complete(paths: list[pathlib.Path]) -> None:
    for path in paths:
        match = re.search(r"-of-(\d{1,5})$", path.stem)
        if match and int(match[1]) != len(paths):
            raise InputError(
                f"{path.parent} has {counted(len(paths), 'file')} instead of the {match[1]} that "
                f"belong to {path.name}: download the whole set, and remove other files"
            )


def _read(name: str, paths: list[pathlib.Path], part: str) -> Piece:
    images, labels = [], []
    for path in paths:
        with naming_file(path):
            some_images, some_labels = _read_file(name, path, part)
        images.append(some_images)
        labels.append(some_labels)
    source = str(paths[0]) if len(paths) == 1 else f"{paths[0].parent}/{part}-*.parquet"
    return Piece(source, np.concatenate(images), np.concatenate(labels))


def _read_file(name: str, path: pathlib.Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    import pyarrow.parquet

    size, shape = path.stat().st_size, FACTS[name].image_shape
    with open_regular(path) as file:
        table = pyarrow.parquet.ParquetFile(file)
        image_column, label_column = _columns(name, table.schema_arrow)
        _check_sizes(table.metadata, math.prod(shape), size)
        images = np.empty((table.metadata.num_rows, *shape), np.uint8)
        labels = np.empty(len(images), np.int64)
        # Only the bytes; the column has paths too.
        batches = table.iter_batches(_BATCH, columns=[f"{image_column}.bytes", label_column])
        start = 0
        for batch in progress(batches, f"{name} {part}", math.ceil(len(images) / _BATCH)):
            encoded = batch.column(image_column).field("bytes")
            found = batch.column(label_column)
            if encoded.null_count or found.null_count:
                raise UnsupportedFile("has rows without an image or a label: replace it")
            for i, data in enumerate(encoded):
                images[start + i] = png_images.decode(data.as_py(), shape)
            labels[start : start + len(found)] = found.to_numpy()
            start += len(found)
    return images[:start], labels[:start]


def _columns(name: str, schema: Any) -> tuple[str, str]:
    """Returns the names of the columns of images and labels. Raises UnsupportedFile."""
    import pyarrow.types as types

    label_column = "fine_label" if name == "cifar100" else "label"
    image_column = next((known for known in _IMAGE_COLUMNS if known in schema.names), None)
    if image_column is None or label_column not in schema.names:
        raise UnsupportedFile(
            f"has no column {label_column} or {' or '.join(_IMAGE_COLUMNS)}, only "
            f"{', '.join(schema.names)}: it belongs to another set"
        )
    image_type = schema.field(image_column).type
    if not types.is_struct(image_type) or image_type.get_field_index("bytes") < 0:
        raise UnsupportedFile(
            f"has a column {image_column} of {image_type} instead of bytes and path"
        )
    if not types.is_binary(image_type.field("bytes").type):
        raise UnsupportedFile(f"has images of {image_type.field('bytes').type} instead of binary")
    if not types.is_integer(schema.field(label_column).type):
        raise UnsupportedFile(f"has labels of {schema.field(label_column).type}, not integers")
    _check_class_names(name, label_column, schema.metadata or {})
    return image_column, label_column


def _check_class_names(name: str, label_column: str, metadata: dict[bytes, bytes]) -> None:
    """Checks that the labels follow the official order, if the file has the names of classes."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        names = features[label_column]["names"]
    except (KeyError, TypeError):
        return
    if [label_of(name, str(text)) for text in names] != list(range(FACTS[name].num_classes)):
        raise UnsupportedFile(
            f"has the classes {', '.join(map(str, names))!r:.100}: it belongs to another set"
        )


def _check_sizes(metadata: Any, image_bytes: int, size: int) -> None:
    rows = metadata.num_rows
    if rows > MAX_IMAGES:
        raise UnsupportedFile(f"has {rows:,} images, more than the limit of {MAX_IMAGES:,}")
    if rows * image_bytes > MAX_INFLATION * size:
        raise UnsupportedFile(
            f"of {size:,} bytes unpacks to {rows * image_bytes:,}, more than {MAX_INFLATION} times "
            "as many: replace it"
        )
    groups = (metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if (unpacked := sum(groups)) > MAX_BYTES:
        raise UnsupportedFile(
            f"has {unpacked:,} bytes of columns, more than the limit of {MAX_BYTES:,}"
        )
