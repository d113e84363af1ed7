"""Reads image sets that TensorFlow Datasets (TFDS) has prepared on disk, without TensorFlow.

TFDS stores a split in the order of hashed keys. Readers here restore the order of the published
files, so that a run is the same whichever copy it reads.
"""

import hashlib
import pathlib
import re
import struct
import sys
from collections.abc import Sequence

import numpy as np

from densenet_jax.data.archives import Piece, naming, whole_numbers
from densenet_jax.data.encoded import MAX_PICTURE_BYTES, Encoded, Pictures
from densenet_jax.errors import InputError, UnsupportedFile, counted
from densenet_jax.files import check_regular, open_regular, read_regular

MAX_RECORD_BYTES = MAX_PICTURE_BYTES + 2**16  # Of a picture with its label and its name.
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
    """Reads images and labels of a split, in the order of the published files.

    Raises:
      InputError: the copy lacks the split, is damaged, is of another set, or is in a format other
        than ArrayRecord (`file_format="array_record"`) and TFRecord.
    """
    with naming(folder):
        builder = _builder(folder, split)
        count = builder.info.splits[split].num_examples
        images, labels, positions = [], [], []
        for example in progress(_examples(builder, split), f"{folder.parent.name} {split}", count):
            images.append(example["image"])
            labels.append(example["label"])
            if "id" in example:  # such as b"train_00042"
                positions.append(int(example["id"].split(b"_")[-1]))
        if len(images) != count:
            raise ValueError(
                f"split {split!r} has {counted(len(images), 'example')} instead of {count:,}"
            )
        if not positions:
            positions = sorted(range(count), key=lambda index: _hashed_key(split, index))
        if len({image.shape for image in images}) > 1:
            raise UnsupportedFile("has images of several sizes: it is a copy of another set")
        order = np.argsort(positions)
        images = np.stack([images[i] for i in order])
        return Piece(
            f"{folder} ({split})", images, whole_numbers(np.array(labels), "labels")[order]
        )


def _builder(folder: pathlib.Path, split: str):
    import tensorflow_datasets as tfds

    for path in folder.iterdir():
        check_regular(path)  # TFDS would wait for a named pipe.
    builder = tfds.builder_from_directory(folder)
    if split not in builder.info.splits:
        raise InputError(f"{folder} has no split {split!r}: prepare the whole set with TFDS.")
    if not {"image", "label"} <= {*builder.info.features}:
        raise InputError(f"{folder} has no images with labels: it is a copy of another set.")
    file_format = builder.info.file_format.value
    if file_format not in ("array_record", "tfrecord"):
        raise InputError(
            f"{folder} is in format {file_format}: "
            'prepare it again with file_format="array_record" or "tfrecord".'
        )
    return builder


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
    else:
        source = builder.as_data_source(split)
        for start in range(0, len(source), _CHUNK):
            indices = range(start, min(start + _CHUNK, len(source)))
            yield from source.__getitems__(list(indices))


def pictures(folder: pathlib.Path, split: str) -> Pictures:
    """The pictures of a split, encoded as they are stored, in stored order.

    Raises InputError as `read` does.
    """
    with naming(folder):
        builder = _builder(folder, split)
        found = _Pictures(builder, split)
        count = builder.info.splits[split].num_examples
        if len(found) != count:
            raise ValueError(
                f"split {split!r} has {counted(len(found), 'example')} instead of {count:,}"
            )
        return found


class _Pictures:
    """Of either format."""

    def __init__(self, builder, split: str):
        import tensorflow_datasets as tfds

        self._folder, self._split = pathlib.Path(builder.data_dir), split
        self._features = builder.info.features
        self._decoders = {"image": tfds.decode.SkipDecoding()}
        if builder.info.file_format.value == "array_record":
            raw_bytes = tfds.decode.DeserializeMethod.RAW_BYTES
            self._records = builder.as_data_source(split, deserialize_method=raw_bytes)
        else:
            self._records = _TFRecords(builder.info.splits[split].filepaths)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Encoded:
        example = self._example(index)
        return Encoded(example["image"], int(example["label"]), example["file_name"].decode())

    def name(self, index: int) -> str:
        return f"{self[index].file_name} in {self._folder} ({self._split})"

    def _example(self, index: int) -> dict:
        record = self._records[index]
        return self._features.deserialize_example_np(record, decoders=self._decoders)


class _TFRecords:
    """The records of some files, found by number."""

    def __init__(self, paths: Sequence[str]):
        self._paths = [pathlib.Path(path) for path in paths]
        self._pieces = np.array(
            [
                (which, offset, length)
                for which, path in enumerate(self._paths)
                for offset, length in _tfrecord_pieces(path)
            ]
        )

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, index: int) -> bytes:
        which, offset, length = self._pieces[index]
        return read_regular(self._paths[which], MAX_RECORD_BYTES, int(offset), int(length))


def _tfrecords(path: pathlib.Path):
    """The records of a TFRecord file."""
    for offset, length in _tfrecord_pieces(path):
        yield read_regular(path, MAX_RECORD_BYTES, offset, length)


def _tfrecord_pieces(path: pathlib.Path):
    """Where in a TFRecord file its records lie: offsets and lengths, in bytes.

    Each is framed as: length (8 bytes), checksum of the length (4), record, checksum of the record
    (4). The checksums (CRC-32C) are skipped: without a library for them they would cost more than
    the rest, and the zlib stream of each PNG image has its own.
    """
    size = path.stat().st_size
    with open_regular(path) as file:
        while file.tell() < size:
            header = file.read(12)
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else size
            if length > size - file.tell() - 4:
                raise ValueError(f"{path.name} is cut short")
            yield file.tell(), length
            file.seek(length + 4, 1)


def progress(examples, description: str, total: int):
    """`examples`, with a progress bar where a person may be watching: SVHN takes minutes."""
    if not sys.stderr.isatty():
        return examples
    from rich.console import Console
    from rich.progress import track

    return track(examples, description, total, console=Console(stderr=True), transient=True)
