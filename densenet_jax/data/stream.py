"""A stream of pictures: read, decoded and cropped ahead of time, by threads or processes.

Grain is asked for whole batches, each a function of the step alone. So the number of workers and of
hosts changes nothing, and a stream can begin at any step.
"""

import contextlib
import dataclasses
import functools
import logging
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags

from densenet_jax.data.archives import naming
from densenet_jax.data.batches import PADDING, epoch_order, in_batches
from densenet_jax.data.encoded import Pictures
from densenet_jax.data.pictures import MAX_PIXELS, CentralCrop, decode
from densenet_jax.data.random_crop import random_crop
from densenet_jax.data.workers import cores, default_workers
from densenet_jax.errors import InputError

_CROP = 1  # Ends the seeds of crops: else that of example 0 would be that of the order.


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """Crops a random box, a function of (seed, epoch, example)."""

    size: int
    seed: int
    max_pixels: int = MAX_PIXELS

    def __call__(self, data: bytes, epoch: int, index: int) -> np.ndarray:
        random = np.random.default_rng([self.seed, epoch, index, _CROP])
        return random_crop(data, self.size, random, self.max_pixels)


@dataclasses.dataclass(frozen=True)
class Middle:
    """Crops the centre of a picture, or ten crops."""

    crop: CentralCrop
    ten: bool = False
    max_pixels: int = MAX_PIXELS

    def __call__(self, data: bytes, epoch: int, index: int) -> np.ndarray:
        picture = decode(data, self.max_pixels)
        return self.crop.ten(picture) if self.ten else self.crop(picture)


@dataclasses.dataclass(frozen=True)
class Epochs:
    """The steps of training: each epoch shuffled anew."""

    seed: int
    examples: int
    batch_size: int
    drop_last: bool
    steps_per_epoch: int

    def __call__(self, step: int) -> tuple[int, np.ndarray]:
        """The epoch, and the indices `[batch_size]` of the examples."""
        epoch, row = divmod(step, self.steps_per_epoch)
        order = _order(self.seed, epoch, self.examples, self.batch_size, self.drop_last)
        return epoch, order[row]


_order = functools.lru_cache(maxsize=2)(epoch_order)


@dataclasses.dataclass(frozen=True)
class OnePass:
    """The steps of an evaluation: all examples in their order."""

    examples: int
    batch_size: int

    def __call__(self, step: int) -> tuple[int, np.ndarray]:
        start = step * self.batch_size
        stop = min(start + self.batch_size, self.examples)
        return 0, in_batches(np.arange(start, stop), self.batch_size)[0]


class HostBatch(NamedTuple):
    """This host's part of a batch.

    images uint8 `[N, size, size, 3]`, or `[N, 10, size, size, 3]`; labels and indices `[N]`, where
    the index of a padded example, and of one that could not be read, is PADDING; `broken` `[N]` has
    the indices of the latter.
    """

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    broken: np.ndarray


@dataclasses.dataclass(frozen=True)
class Source:
    """The batches of this host, by step, for Grain.

    Attributes:
      pictures: those of a split.
      crop: cuts an image out of the bytes of a picture, by epoch and index.
      order: from a step to its epoch and the indices of the whole batch.
      rows: those of the batch that are this host's.
      shape: of what `crop` gives.
      first, stop: steps to go from, and before which to stop.
    """

    pictures: Pictures
    crop: Callable[[bytes, int, int], np.ndarray]
    order: Callable[[int], tuple[int, np.ndarray]]
    rows: np.ndarray
    shape: tuple[int, ...]
    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first

    def __getitem__(self, position: int) -> HostBatch:
        _end_with_trainer()
        epoch, indices = self.order(self.first + position)
        indices = indices[self.rows].copy()
        broken = np.full_like(indices, PADDING)
        images = np.zeros((len(indices), *self.shape), np.uint8)
        labels = np.zeros(len(indices), np.int32)
        for i, index in enumerate(indices):
            if index == PADDING:
                continue
            try:
                images[i], labels[i] = self.read(epoch, int(index))
            except Exception:  # Whatever it is, `read_again` will tell.
                indices[i], broken[i] = PADDING, index
        return HostBatch(images, labels, indices, broken)

    def read(self, epoch: int, index: int) -> tuple[np.ndarray, int]:
        encoded = self.pictures[index]
        return self.crop(encoded.data, epoch, index), encoded.label

    def read_again(self, position: int, batch: HostBatch, skip_broken: bool) -> None:
        """Tries once more to read what is broken in `batch`, which it changes.

        Logs the names of pictures that still cannot be read; or raises an InputError that names the
        first, if `skip_broken` is false.
        """
        epoch, _ = self.order(self.first + position)
        for i in np.flatnonzero(batch.broken != PADDING):
            index = int(batch.broken[i])
            try:
                with naming(self.pictures.name(index)):
                    batch.images[i], batch.labels[i] = self.read(epoch, index)
                batch.indices[i] = index
            except InputError as error:
                if not skip_broken:
                    sentence = str(error).removesuffix(".")
                    raise InputError(
                        f"{sentence}; or skip such pictures: data.skip_broken = True."
                    ) from error
                logging.getLogger("densenet_jax").warning("skipped: %s", error)


@functools.cache
def _end_with_trainer() -> None:
    """Lets a process that reads for a trainer end when the trainer is killed; once a process."""
    if trainer := multiprocessing.parent_process():
        threading.Thread(target=lambda: (trainer.join(), os._exit(1)), daemon=True).start()


def batches(source: Source, workers: int | None) -> grain.DatasetIterator:
    """The batches of `source` one after the other, made ahead of time.

    Args:
      workers: processes; 0: threads of this process; None: as suits this host.
    """
    workers = default_workers() if workers is None else workers
    # Of what is made ahead, a worker holds one batch and makes another.
    threads = 1 if workers else min(cores(), 16)
    read_options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    dataset = grain.MapDataset.source(source).to_iter_dataset(read_options)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads a flag of its own.
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(dataset)


class Stream:
    """The batches of `source` on the devices, put there ahead of time by a thread of its own.

    Attributes:
      waited: seconds for which `get` has waited while the devices had nothing to do.
    """

    AHEAD = 2  # Batches on the devices that wait for their turn.

    def __init__(
        self,
        source: Source,
        place: Callable[[HostBatch], Any],
        workers: int | None = None,
        skip_broken: bool = False,
    ):
        self._source, self._place, self._skip_broken = source, place, skip_broken
        self.waited = 0.0
        self._queue = queue.Queue(self.AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(workers,), daemon=True)
        self._thread.start()

    def get(self, finish: Callable[[], None] = lambda: None) -> Any:
        """The next batch. Waits for it, if need be, after `finish`, which waits for the devices.

        Raises what went wrong in making it.
        """
        try:
            found = self._queue.get_nowait()
        except queue.Empty:
            finish()
            started = time.monotonic()
            found = self._queue.get()
            self.waited += time.monotonic() - started
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _fill(self, workers: int | None) -> None:
        try:
            with contextlib.closing(batches(self._source, workers)) as made:
                for position, batch in enumerate(made):
                    # Copied: arrays on a CPU may lie in a worker's memory, which must be let go.
                    batch = HostBatch(*map(np.array, batch))
                    if (batch.broken != PADDING).any():
                        self._source.read_again(position, batch, self._skip_broken)
                    if not self._put(self._place(batch)):
                        break
        except BaseException as error:
            self._put(error)

    def _put(self, item: Any) -> bool:
        """Whether there was a place for it before the stream was closed."""
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False
