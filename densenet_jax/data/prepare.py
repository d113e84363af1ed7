"""Writes a copy of ImageNet that is fast to read: the copy of TFDS, without TensorFlow."""

import math
import pathlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from densenet_jax.data import imagenet
from densenet_jax.data.archives import naming_file
from densenet_jax.data.encoded import Pictures
from densenet_jax.data.pictures import MAX_PIXELS, decode
from densenet_jax.data.workers import cores
from densenet_jax.errors import InputError, counted
from densenet_jax.files import sync

VERSION = "5.1.0"  # Version of the set in TFDS.
SHARD = 1280  # Pictures in a file, about 140 MB.


class Shard(NamedTuple):
    """A file of a copy, with the pictures from `start` up to, not including, `stop` of a split."""

    split: str
    path: pathlib.Path
    start: int
    stop: int


class Copy:
    """A copy of ImageNet in `directory` for TFDS and `imagenet.find`, with unchanged pictures.

    Finished files are kept, so that an interrupted copy can be resumed.

    Args:
      parts: the pictures of "train" and "test".
      skip_broken: omit pictures that cannot be decoded.
      max_pixels: pixels of the largest picture that is decoded.

    Attributes:
      pictures: number of pictures.
      shards: number of files that the pictures are written to.
      written: number of written pictures, once `write` has ended.
      broken: error messages of the pictures that cannot be decoded.
    """

    def __init__(
        self,
        parts: dict[str, Pictures],
        directory: pathlib.Path,
        skip_broken: bool = False,
        max_pixels: int = MAX_PIXELS,
    ):
        if max_pixels < 1:
            raise InputError(f"max_pixels is {max_pixels}: it must be at least 1")
        self._splits = {imagenet.SPLITS[part]: pictures for part, pictures in parts.items()}
        self._skip_broken, self._max_pixels = skip_broken, max_pixels
        self._final = directory / imagenet.TFDS_NAME / VERSION
        self._unfinished = self._final.with_name(f"{VERSION}.incomplete")
        self._features = _features()
        self._shards = [shard for split in self._splits for shard in self._shards_of(split)]
        self.broken: list[str] = []
        self.pictures = sum(map(len, self._splits.values()))
        self.shards, self.written = len(self._shards), 0
        if self._final.exists():
            raise InputError(f"{self._final} exists already: use it, or remove it")

    def write(self) -> Iterator[int]:
        """Writes the copy; yields the number of pictures in each file once the file is written.

        Raises InputError if pictures cannot be decoded; files of sound pictures are kept.
        """
        try:
            self._unfinished.mkdir(parents=True, exist_ok=True)
            with ThreadPoolExecutor(cores()) as pool:
                for shard, broken in zip(
                    self._shards, pool.map(self._write, self._shards), strict=True
                ):
                    self.broken += broken
                    yield shard.stop - shard.start
        except OSError as error:
            raise InputError(
                f"cannot write to {self._unfinished}: {error.strerror}. Remove the cause and run "
                "the same command again: finished files are kept."
            ) from error
        if self.broken and not self._skip_broken:
            raise InputError(
                f"{len(self.broken):,} of {counted(self.pictures, 'picture')} cannot be read: "
                "replace them, or omit them with --skip_broken, and run the command again. "
                "Finished files are kept."
            )
        self._describe()
        if not self.written:
            raise InputError(
                f"none of {counted(self.pictures, 'picture')} can be read: replace them"
            )
        self._unfinished.rename(self._final)
        sync(self._final.parent)

    def _shards_of(self, split: str) -> list[Shard]:
        size = len(self._splits[split])
        count = math.ceil(size / SHARD)
        bounds = [size * i // count for i in range(count + 1)]
        name = f"{imagenet.TFDS_NAME}-{split}.array_record"
        paths = [self._unfinished / f"{name}-{i:05d}-of-{count:05d}" for i in range(count)]
        return [Shard(split, path, *bounds[i : i + 2]) for i, path in enumerate(paths)]

    def _write(self, shard: Shard) -> list[str]:
        """Writes a shard; returns the errors of its broken pictures.

        A shard with broken pictures is not written unless they are skipped.
        """
        if shard.path.exists():
            return []
        pictures = self._splits[shard.split]
        broken: list[str] = []
        temporary = shard.path.with_name(f".{shard.path.name}")
        writer = ArrayRecordWriter(str(temporary), "group_size:1")
        for index in range(shard.start, shard.stop):
            try:
                with naming_file(pictures.name(index)):
                    encoded = pictures[index]
                    decode(encoded.data, self._max_pixels)
            except InputError as error:
                broken.append(str(error))
                continue
            example = dict(zip(("image", "label", "file_name"), encoded, strict=True))
            writer.write(self._features.serialize_example(self._features.encode_example(example)))
        writer.close()
        if broken and not self._skip_broken:
            temporary.unlink()
        else:
            sync(temporary)  # Otherwise a power loss could leave a truncated shard.
            temporary.rename(shard.path)
            sync(shard.path.parent)
        return broken

    def _describe(self) -> None:
        """Writes the metadata that TFDS requires, and counts the written pictures."""
        import tensorflow_datasets as tfds

        def info(split: str) -> tfds.core.SplitInfo:
            paths = [shard.path for shard in self._shards if shard.split == split]
            lengths = [ArrayRecordReader(str(path)).num_records() for path in paths]
            self.written += sum(lengths)
            size = sum(path.stat().st_size for path in paths)
            return tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size)

        tfds.folder_dataset.write_metadata(
            data_dir=self._unfinished,
            features=self._features,
            split_infos=[info(split) for split in self._splits],
            version=VERSION,
            check_data=False,
            supervised_keys=("image", "label"),
            homepage="https://image-net.org/",
        )


def _features() -> Any:
    """Returns the features of ImageNet in TFDS."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=list(imagenet.classes())),
            "file_name": tfds.features.Text(),
        }
    )
