"""Reads image sets that TensorFlow Datasets (TFDS) has prepared on disk, without TensorFlow.

TFDS stores a split in the order of hashed keys. `read` restores the order of the published files,
so that a run does not depend on the copy it reads.
"""

import hashlib
import pathlib
import re
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from densenet_jax.data.archives import Piece, naming_file, whole_numbers
from densenet_jax.data.encoded import MAX_PICTURE_BYTES, Encoded, Pictures
from densenet_jax.data.facts import Facts
from densenet_jax.errors import InputError, UnsupportedFile, counted
from densenet_jax.files import check_regular, open_regular, read_object, read_regular

MAX_RECORD_BYTES = MAX_PICTURE_BYTES + 2**16  # A picture with its label and name.
_CHUNK = 1000  # Examples read at a time from ArrayRecord, several times faster than one by one.

T = TypeVar("T")


def find(directory: pathlib.Path, name: str) -> pathlib.Path | None:
    """Returns the directory of the newest copy of TFDS's set `name`, or None.

    The copy is `NAME/VERSION` or `NAME/CONFIG/VERSION` in `directory`. `directory` may also be NAME
    or VERSION itself, if the copy has the name of the set in it.
    """
    copies = _finished((directory / name).glob("*")) or _finished((directory / name).glob("*/*"))
    if not copies:
        copies = [
            copy for copy in _finished([directory, *directory.glob("*")]) if _name(copy) == name
        ]
    return max(copies, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def _finished(directories: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """Returns the directories that are named by a version, which unfinished copies are not."""
    return [
        path
        for path in directories
        if re.fullmatch(r"\d+\.\d+\.\d+", path.name) and (path / "dataset_info.json").exists()
    ]


def _name(copy: pathlib.Path) -> object:
    return (read_object(copy / "dataset_info.json") or {}).get("name")


def read(copy: pathlib.Path, split: str, facts: Facts) -> Piece:
    """Reads images and labels of a split, in the order of the published files.

    Args:
      copy: directory of the copy, as `find` returns it.
      facts: describes the images of copies that were prepared before TFDS 4.

    Raises:
      InputError: the copy lacks the split, is damaged, is of another set, or has a format other
        than ArrayRecord (`file_format="array_record"`) and TFRecord.
    """
    with naming_file(copy):
        builder = _builder(copy, split, facts)
        count = builder.info.splits[split].num_examples
        images, labels, positions = [], [], []
        for example in progress(_examples(builder, split), f"{copy.parent.name} {split}", count):
            images.append(example["image"])
            labels.append(example["label"])
            if "id" in example:  # For example b"train_00042".
                positions.append(int(example["id"].split(b"_")[-1]))
        if len(images) != count:
            raise ValueError(
                f"split {split!r} has {counted(len(images), 'example')} instead of {count:,}"
            )
        if not positions:
            # `positions` lists the position in the published files for each stored example.
            positions = sorted(range(count), key=lambda index: _hashed_key(split, index))
        if len({image.shape for image in images}) > 1:
            raise UnsupportedFile("has images of several sizes: it is a copy of another set")
        order = np.argsort(positions)
        return Piece(
            f"{copy} ({split})",
            np.stack([images[i] for i in order]),
            whole_numbers(np.array(labels), "labels")[order],
        )


def _builder(copy: pathlib.Path, split: str, facts: Facts | None = None) -> Any:
    """Returns TFDS's builder. Raises InputError if `split` is missing or cannot be read."""
    import tensorflow_datasets as tfds

    for path in copy.iterdir():
        check_regular(path)  # TFDS would wait for a named pipe.
    if facts and not (copy / "features.json").exists():
        builder = _old_builder(copy, facts)
    else:
        builder = tfds.builder_from_directory(copy)
    if split not in builder.info.splits:
        raise InputError(f"{copy} has no split {split!r}: prepare the whole set with TFDS")
    if not {"image", "label"} <= {*builder.info.features}:
        raise InputError(f"{copy} has no images with labels: it is a copy of another set")
    file_format = builder.info.file_format.value
    if file_format not in ("array_record", "tfrecord"):
        raise InputError(
            f"{copy} has the format {file_format}: "
            'prepare it again with file_format="array_record" or "tfrecord"'
        )
    return builder


def _old_builder(copy: pathlib.Path, facts: Facts) -> Any:
    """Returns the builder of a copy without features.json, as TFDS before version 4 wrote it."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered
    from tensorflow_datasets.core.read_only_builder import ReadOnlyBuilder

    with registered.skip_registration():

        class OldBuilder(ReadOnlyBuilder):
            def _info(self) -> tfds.core.DatasetInfo:
                features = {
                    "image": tfds.features.Image(shape=facts.image_shape),
                    "label": tfds.features.ClassLabel(num_classes=facts.num_classes),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

    return OldBuilder(copy)


def _hashed_key(split: str, index: int) -> bytes:
    """Returns the key by which TFDS sorts the examples of sets whose keys are indices."""
    return hashlib.md5(f"{split}{index}".encode(), usedforsecurity=False).digest()


def _examples(builder: Any, split: str) -> Iterator[dict[str, Any]]:
    """Yields the decoded examples of a split, in stored order."""
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


def pictures(copy: pathlib.Path, split: str) -> Pictures:
    """Returns the encoded pictures of a split in stored order. Raises InputError as `read` does."""
    with naming_file(copy):
        builder = _builder(copy, split)
        found = _Pictures(builder, split)
        count = builder.info.splits[split].num_examples
        if len(found) != count:
            raise ValueError(
                f"split {split!r} has {counted(len(found), 'example')} instead of {count:,}"
            )
        return found


class _Pictures:
    """The pictures of a copy in either format. Only reading the pictures tells their labels."""

    labels: None = None

    def __init__(self, builder: Any, split: str):
        import tensorflow_datasets as tfds

        self._directory, self._split = pathlib.Path(builder.data_dir), split
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
        return f"{self[index].file_name} in {self._directory} ({self._split})"

    def _example(self, index: int) -> dict[str, Any]:
        record = self._records[index]
        return self._features.deserialize_example_np(record, decoders=self._decoders)


class _TFRecords:
    """The records of TFRecord files, read by their index."""

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


def _tfrecords(path: pathlib.Path) -> Iterator[bytes]:
    """Yields the records of a TFRecord file."""
    for offset, length in _tfrecord_pieces(path):
        yield read_regular(path, MAX_RECORD_BYTES, offset, length)


def _tfrecord_pieces(path: pathlib.Path) -> Iterator[tuple[int, int]]:
    """Yields the offset and the length in bytes of each record in a TFRecord file.

    A record follows its length (8 bytes) and the checksum of the length (4 bytes); the checksum of
    the record (4 bytes) ends it. The checksums (CRC-32C) are skipped, because computing them in
    Python would take longer than all else. The zlib stream of a PNG image has another checksum.
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


def progress(examples: Iterable[T], description: str, total: int) -> Iterable[T]:
    """Returns `examples`, with a progress bar on a terminal, because SVHN takes minutes."""
    if not sys.stderr.isatty():
        return examples
    from rich.console import Console
    from rich.progress import track

    return track(examples, description, total, console=Console(stderr=True), transient=True)
