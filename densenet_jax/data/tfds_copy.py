"""Reads image sets that TensorFlow Datasets (TFDS) has prepared on disk, without TensorFlow.

TFDS stores a split in the order of hashed keys. Readers here restore the order of the published
files, so that a run is the same whichever copy it reads.
"""

import hashlib
import pathlib
import re
import struct
import sys

import numpy as np

from densenet_jax.data.archives import Piece, naming
from densenet_jax.errors import InputError

_CHUNK = 1000  # examples read at once from ArrayRecord, which is several times faster than singly


def find(directory: pathlib.Path, name: str) -> pathlib.Path | None:
    """Folder of the newest prepared version of TFDS's set `name` under `directory`, or None."""
    versions = [
        path.parent
        for path in (directory / name).glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)  # not one half prepared
    ]
    return max(versions, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def read(folder: pathlib.Path, split: str) -> Piece:
    """Images and labels of a split, in the order of the published files.

    Raises:
      InputError: the copy lacks the split, is damaged, or is in a format other than ArrayRecord
        (`file_format="array_record"`) and TFRecord.
    """
    import tensorflow_datasets as tfds

    with naming(folder):
        builder = tfds.builder_from_directory(folder)
        if split not in builder.info.splits:
            raise InputError(f"{folder} has no split {split!r}: prepare the whole set with TFDS.")
        count = builder.info.splits[split].num_examples
        images, labels, positions = [], [], []
        for example in _progress(_examples(builder, split), f"{folder.parent.name} {split}", count):
            images.append(example["image"])
            labels.append(example["label"])
            if "id" in example:  # such as b"train_00042"
                positions.append(int(example["id"].split(b"_")[-1]))
        if len(images) != count:
            raise ValueError(f"split {split!r} has {len(images)} examples instead of {count}")
        if not positions:
            positions = sorted(range(count), key=lambda index: _hashed_key(split, index))
        order = np.argsort(positions)
        images = np.stack([images[i] for i in order])
        return Piece(f"{folder} ({split})", images, np.array(labels)[order])


def _hashed_key(split: str, index: int) -> bytes:
    """By what TFDS sorts the examples of these sets, whose keys are their indices."""
    return hashlib.md5(f"{split}{index}".encode(), usedforsecurity=False).digest()


def _examples(builder, split: str):
    """Decoded examples of a split, in stored order."""
    file_format = builder.info.file_format.value
    if file_format == "tfrecord":
        for path in builder.info.splits[split].filepaths:
            for record in _tfrecords(pathlib.Path(path)):
                yield builder.info.features.deserialize_example_np(record)
    elif file_format == "array_record":
        source = builder.as_data_source(split)
        for start in range(0, len(source), _CHUNK):
            indices = range(start, min(start + _CHUNK, len(source)))
            yield from source.__getitems__(list(indices))
    else:
        raise InputError(
            f"{builder.data_dir} is in format {file_format}: "
            'prepare it again with file_format="array_record" or "tfrecord".'
        )


def _tfrecords(path: pathlib.Path):
    """The records of a TFRecord file.

    Each is framed as: length (8 bytes), checksum of the length (4), record, checksum of the record
    (4). The checksums (CRC-32C) are skipped: without a library for them they would cost more than
    the rest, and the zlib stream of each PNG image has its own.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        while file.tell() < size:
            header = file.read(12)
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else size
            if length > size - file.tell() - 4:
                raise ValueError(f"{path.name} is cut short")
            yield file.read(length)
            file.seek(4, 1)


def _progress(examples, description: str, total: int):
    """`examples`, with a progress bar where a person may be watching: SVHN takes minutes."""
    if not sys.stderr.isatty():
        return examples
    from rich.console import Console
    from rich.progress import track

    return track(examples, description, total, console=Console(stderr=True), transient=True)
