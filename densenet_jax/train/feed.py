"""Feeds the devices: with a set that is stored on them, or with a stream of pictures."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from densenet_jax.data import batches, stream
from densenet_jax.data.sources import Dataset
from densenet_jax.train.config import steps_per_epoch
from densenet_jax.train.mesh import batch_sharded, local_rows, place_rows, platform, replicated
from densenet_jax.train.progress import Clock

# Most steps that a GPU or TPU runs in one dispatch, if the config leaves it open. A CPU runs one
# step in a dispatch, because loops are slow there (see step.py).
STEPS_PER_DISPATCH = 100
SPLITS = ("train", "validation", "test")
TEN_CROPS = 10  # The corners and the centre of a picture, and of its mirror image.
MIRRORED = 2  # An image and its mirror image, which the devices make.


# An array on the devices, or its shape for tracing.
Leaf = jax.Array | jax.ShapeDtypeStruct


class Dispatch(NamedTuple):
    """The input of one dispatch, which runs one step for each row of `indices`.

    Attributes:
      images, labels: a whole set, `[examples, ...]`; or one step's examples, `[1, batch, ...]`.
      indices: `[steps, batch]`, positions of the examples in their set.
    """

    images: Leaf
    labels: Leaf
    indices: Leaf

    @property
    def steps(self) -> int:
        return self.indices.shape[0]

    def of_steps(self, steps: int) -> "Dispatch":
        """Returns the dispatch with the shape of the indices of `steps` steps, for tracing."""
        shape, indices = (steps, *self.indices.shape[1:]), self.indices
        placeholder = jax.ShapeDtypeStruct(shape, indices.dtype, sharding=indices.sharding)
        return self._replace(indices=placeholder)


def eval_batch_size(config: ConfigDict, devices: int, crops: int = 1) -> int:
    """Returns the pictures of one step of evaluation, rounded up to a multiple of `devices`."""
    return math.ceil(config.eval_batch_size / crops / devices) * devices


def steps_per_dispatch(steps: int, most: int) -> int:
    """Returns how many of an epoch's `steps` one dispatch runs, at most `most`.

    Each number of steps needs a separate program, so a divisor of `steps` is preferred: then one
    program serves the whole epoch. If no divisor is at least a quarter of `most`, the last dispatch
    of an epoch is shorter and is compiled separately.
    """
    most = min(most, steps)
    divisor = max(n for n in range(1, most + 1) if steps % n == 0)
    return divisor if 4 * divisor > most else most


class Resident:
    """A small set that is stored on every device; a dispatch gathers its examples from the set."""

    def __init__(self, config: ConfigDict, data: Dataset, mesh: Mesh, place: Callable):
        self._config, self._mesh, self._place = config, mesh, place
        self._arrays: dict[str, tuple[jax.Array, jax.Array]] = {
            split: place((part.images, part.labels), replicated(mesh))
            for split in SPLITS
            if (part := getattr(data, split)) is not None
        }
        self._sizes = {split: len(getattr(data, split)) for split in self._arrays}
        self._most_steps = 1 if platform(mesh) == "cpu" else STEPS_PER_DISPATCH

    def close(self) -> None:
        """Does nothing: no stream is open."""

    def example(self, split: str, crops: int = 1) -> Dispatch:
        """Returns the first dispatch of a pass over a split."""
        return next(self.train(0) if split == "train" else self.evaluate(split))

    def train(
        self, epoch: int, first: int = 0, finish: Callable[[], Any] = lambda: None
    ) -> Iterator[Dispatch]:
        """Yields the dispatches of an epoch; see `Streamed.train`."""
        config = self._config
        order = batches.epoch_order(
            config.seed, epoch, self._sizes["train"], config.batch_size, config.data.drop_last
        )
        given = min(config.steps_per_dispatch, len(order))
        steps = given or steps_per_dispatch(len(order), self._most_steps)
        return self._dispatches("train", order[first:], steps)

    def evaluate(self, split: str, crops: int = 1) -> Iterator[Dispatch]:
        """Yields the dispatches of a pass over a split; see `Streamed.evaluate`."""
        size = eval_batch_size(self._config, self._mesh.size)
        order = batches.in_batches(np.arange(self._sizes[split]), size)
        return self._dispatches(split, order, steps_per_dispatch(len(order), self._most_steps))

    def _dispatches(self, split: str, order: np.ndarray, steps: int) -> Iterator[Dispatch]:
        """Cuts `order`, `[steps, batch]`, into dispatches of at most `steps` steps."""
        for start in range(0, len(order), steps):
            placed = self._place(order[start : start + steps], batch_sharded(self._mesh, axis=1))
            yield Dispatch(*self._arrays[split], placed)


class Streamed:
    """Pictures from files. Each host reads the pictures of its devices.

    Adds to the "input_wait" seconds of `clock` while the devices wait for training images.
    """

    def __init__(self, config: ConfigDict, data: Dataset, mesh: Mesh, clock: Clock):
        self._config, self._data, self._clock = config, data, clock
        self._sharding = batch_sharded(mesh, axis=1)
        self._rows_sharding = batch_sharded(mesh)
        self._devices = mesh.size
        self._training: stream.Stream | None = None
        self._next_step: int | None = None

    def example(self, split: str, crops: int = 1) -> Dispatch:
        """Returns the shapes, types and shardings of a dispatch."""
        size = self._batch_size(split, crops)

        def array(dtype, *shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((1, size, *shape), dtype, sharding=self._sharding)

        images = array(np.uint8, *self._shape(crops))
        return Dispatch(images, array(np.int32, *self._data.label_shape), array(np.int32))

    def train(
        self, epoch: int, first: int = 0, finish: Callable[[], Any] = lambda: None
    ) -> Iterator[Dispatch]:
        """Yields the dispatches of `epoch` (from 0), beginning with its step number `first`.

        Args:
          finish: waits until the devices have finished all dispatches.
        """
        config, examples = self._config, len(self._data.train)
        steps = steps_per_epoch(config, examples)
        start, stop = epoch * steps + first, (epoch + 1) * steps
        if self._training is None or start != self._next_step:  # One stream serves all epochs.
            self.close()
            order = stream.Epochs(
                config.seed, examples, config.batch_size, config.data.drop_last, steps
            )
            self._training = self._open("train", self._crop(), order, start, config.epochs * steps)
        for step in range(start, stop):
            waited = self._training.waited
            dispatch = self._training.get(finish)
            self._clock.seconds["input_wait"] += self._training.waited - waited
            self._next_step = step + 1
            yield dispatch

    def evaluate(self, split: str, crops: int = 1) -> Iterator[Dispatch]:
        """Yields the dispatches of a pass over a split: one crop, or ten, of each picture."""
        size = self._batch_size(split, crops)
        order = stream.OnePass(len(getattr(self._data, split)), size)
        steps = math.ceil(order.examples / size)
        max_pixels = self._config.data.max_pixels
        crop = stream.Middle(self._data.crop, ten=crops == TEN_CROPS, max_pixels=max_pixels)
        passing = self._open(split, crop, order, 0, steps, crops)
        try:
            for _ in range(steps):
                yield passing.get()
        finally:
            passing.close()

    def close(self) -> None:
        """Ends the stream of training images."""
        if self._training:
            self._training.close()
            self._training = None

    def _open(self, split: str, crop, order, first: int, stop: int, crops: int = 1):
        size, data = self._batch_size(split, crops), self._config.data
        rows = local_rows(self._rows_sharding, size)
        pictures = getattr(self._data, split)
        source = stream.Source(
            *(pictures, crop, order, rows, self._shape(crops), first, stop, self._data.label_shape)
        )

        def place(batch: stream.HostBatch) -> Dispatch:
            arrays = batch.images, batch.labels, batch.indices
            return Dispatch(*(place_rows(array, rows, size, self._sharding) for array in arrays))

        return stream.Stream(source, place, data.workers, data.skip_broken)

    def _crop(self):
        config, crop = self._config, self._data.crop
        if config.data.augment and config.data.random_crop == "resized":
            return stream.RandomCrop(crop.size, config.seed, config.data.max_pixels)
        return stream.Middle(crop, max_pixels=config.data.max_pixels)

    def _shape(self, crops: int) -> tuple[int, ...]:
        return (*(() if crops == 1 else (crops,)), *self._data.image_shape)

    def _batch_size(self, split: str, crops: int) -> int:
        if split == "train":
            return self._config.batch_size
        return eval_batch_size(self._config, self._devices, crops)
