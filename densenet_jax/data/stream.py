"""A stream of pictures that threads or processes read, decode and crop ahead of time.

Grain makes whole batches, and a batch is a function of the step alone. So the numbers of workers
and of hosts change nothing, and a stream can start at any step.
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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import flags

from densenet_jax.data.archives import naming_file
from densenet_jax.data.batches import PADDING, epoch_order, in_batches
from densenet_jax.data.encoded import Pictures
from densenet_jax.data.pictures import MAX_PIXELS, CentralCrop, decode
from densenet_jax.data.random_crop import random_crop
from densenet_jax.data.workers import cores, default_workers
from densenet_jax.errors import InputError

if TYPE_CHECKING:
    import grain

_CROP = 1  # Ends the seeds of crops. Otherwise example 0 would share the seed of the order.


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """A random crop as a function of (seed, epoch, example)."""

    size: int
    seed: int
    max_pixels: int = MAX_PIXELS

    def __call__(self, data: bytes, epoch: int, index: int) -> np.ndarray:
        random = np.random.default_rng([self.seed, epoch, index, _CROP])
        return random_crop(data, self.size, random, self.max_pixels)


@dataclasses.dataclass(frozen=True)
class Middle:
    """The central crop of a picture, or its ten crops."""

    crop: CentralCrop
    ten: bool = False
    max_pixels: int = MAX_PIXELS

    def __call__(self, data: bytes, epoch: int, index: int) -> np.ndarray:
        picture = decode(data, self.max_pixels)
        return self.crop.ten(picture) if self.ten else self.crop(picture)


@dataclasses.dataclass(frozen=True)
class Epochs:
    """The order of training: each epoch is shuffled differently."""

    seed: int
    examples: int
    batch_size: int
    drop_last: bool
    steps_per_epoch: int

    def __call__(self, step: int) -> tuple[int, np.ndarray]:
        """Returns the epoch of a step, and the indices `[batch_size]` of its examples."""
        epoch, row = divmod(step, self.steps_per_epoch)
        order = _order(self.seed, epoch, self.examples, self.batch_size, self.drop_last)
        return epoch, order[row]


_order = functools.lru_cache(maxsize=2)(epoch_order)


@dataclasses.dataclass(frozen=True)
class OnePass:
    """The order of an evaluation: all examples once, in stored order."""

    examples: int
    batch_size: int

    def __call__(self, step: int) -> tuple[int, np.ndarray]:
        start = step * self.batch_size
        stop = min(start + self.batch_size, self.examples)
        return 0, in_batches(np.arange(start, stop), self.batch_size)[0]


class HostBatch(NamedTuple):
    """This host's part of a batch.

    Attributes:
      images: uint8 `[N, size, size, 3]`, or `[N, 10, size, size, 3]` for ten crops.
      labels: int32 `[N]`, or `[N, labels]` for several labels per picture.
      indices: `[N]`, PADDING for missing examples and for pictures that cannot be read.
      broken: `[N]`, the indices of pictures that cannot be read, PADDING elsewhere.
    """

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    broken: np.ndarray


@dataclasses.dataclass(frozen=True)
class Source:
    """This host's batches by step, as a source for Grain.

    Attributes:
      pictures: the pictures of a split.
      crop: returns an image from the bytes of a picture, its epoch and its index.
      order: returns the epoch of a step, and the indices of the whole batch.
      rows: the rows of a batch that belong to this host.
      shape: the shape of an image that `crop` returns.
      first, stop: the steps from `first` up to, not including, `stop`.
      label_shape: the shape of the label of a picture.
    """

    pictures: Pictures
    crop: Callable[[bytes, int, int], np.ndarray]
    order: Callable[[int], tuple[int, np.ndarray]]
    rows: np.ndarray
    shape: tuple[int, ...]
    first: int
    stop: int
    label_shape: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.stop - self.first

    def __getitem__(self, position: int) -> HostBatch:
        _exit_with_trainer()
        epoch, indices = self.order(self.first + position)
        indices = indices[self.rows].copy()
        broken = np.full_like(indices, PADDING)
        images = np.zeros((len(indices), *self.shape), np.uint8)
        labels = np.zeros((len(indices), *self.label_shape), np.int32)
        for i, index in enumerate(indices):
            if index == PADDING:
                continue
            try:
                images[i], labels[i] = self.read(epoch, int(index))
            except Exception:  # `read_again` reports it.
                indices[i], broken[i] = PADDING, index
        return HostBatch(images, labels, indices, broken)

    def read(self, epoch: int, index: int) -> tuple[np.ndarray, int | np.ndarray]:
        encoded = self.pictures[index]
        return self.crop(encoded.data, epoch, index), encoded.label

    def read_again(self, position: int, batch: HostBatch, skip_broken: bool) -> None:
        """Retries the broken pictures of `batch`, and updates it in place.

        If a picture still cannot be read, logs a warning if `skip_broken`, and otherwise raises an
        InputError.
        """
        epoch, _ = self.order(self.first + position)
        for i in np.flatnonzero(batch.broken != PADDING):
            index = int(batch.broken[i])
            try:
                with naming_file(self.pictures.name(index)):
                    batch.images[i], batch.labels[i] = self.read(epoch, index)
                batch.indices[i] = index
            except InputError as error:
                if not skip_broken:
                    raise InputError(
                        f"{error}; or skip broken pictures with data.skip_broken = True"
                    ) from error
                logging.getLogger("densenet_jax").warning("skipped: %s", error)


@functools.cache
def _exit_with_trainer() -> None:
    """Makes a worker process exit when its trainer is killed. Acts once per process."""
    trainer = multiprocessing.parent_process()
    if trainer is None:
        return

    def wait() -> None:
        trainer.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def host_batches(source: Source, workers: int | None) -> "grain.DatasetIterator":
    """Returns an iterator over the batches of `source`, which are made ahead of time.

    Args:
      workers: number of worker processes; 0: threads of this process; None: `default_workers`.
    """
    import grain  # Slow to import, and runs on images in memory do not need it.

    workers = default_workers() if workers is None else workers
    # A worker process makes one batch while it holds another.
    threads = 1 if workers else min(cores(), 16)
    read_options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    dataset = grain.MapDataset.source(source).to_iter_dataset(read_options)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Because Grain reads one of its flags.
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(dataset)


class Stream:
    """The batches of `source` on the devices, where a separate thread places them ahead of time.

    Args:
      source: makes the batches.
      place: places a batch on the devices.
      workers: see `host_batches`.
      skip_broken: skip pictures that cannot be read, with a logged warning.

    Attributes:
      waited: seconds for which `get` has waited while the devices were idle.
    """

    AHEAD = 2  # Batches waiting on the devices. Larger uses more device memory.

    def __init__(
        self,
        source: Source,
        place: Callable[[HostBatch], Any],
        workers: int | None = None,
        skip_broken: bool = False,
    ):
        self._source, self._place, self._skip_broken = source, place, skip_broken
        self.waited = 0.0
        self._queue: queue.Queue[Any] = queue.Queue(self.AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(workers,), daemon=True)
        self._thread.start()

    def get(self, finish: Callable[[], None] = lambda: None) -> Any:
        """Returns the next batch. Raises the error that occurred while the batch was made.

        Args:
          finish: waits for the devices. Called before waiting for a batch that is not ready, so
            that only the idle time of the devices counts as waiting.
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
        """Ends the thread and the workers."""
        self._closed.set()
        self._thread.join()

    def _fill(self, workers: int | None) -> None:
        try:
            with contextlib.closing(host_batches(self._source, workers)) as made:
                for position, batch in enumerate(made):
                    # Copied, because arrays on a CPU may share a worker's memory, which is reused.
                    batch = HostBatch(*map(np.array, batch))
                    if (batch.broken != PADDING).any():
                        self._source.read_again(position, batch, self._skip_broken)
                    if not self._put(self._place(batch)):
                        break
        except BaseException as error:
            self._put(error)

    def _put(self, item: Any) -> bool:
        """Waits for space in the queue. Returns False if the stream is closed before."""
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False
