"""One config on one data set: the arrays on the devices and the compiled steps."""

import contextlib
import dataclasses
import functools
import gc
import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from densenet_jax.data import resident, sources
from densenet_jax.data.preprocessing import preprocess
from densenet_jax.errors import InputError
from densenet_jax.models.catalog import FAMILIES, model_config
from densenet_jax.train.config import check_config, model_settings, steps_per_epoch
from densenet_jax.train.mesh import batch_sharded, data_mesh, place, replicated
from densenet_jax.train.optimizer import companion_weight, learning_rate, optimizer
from densenet_jax.train.step import (
    INIT,
    Learner,
    Sums,
    TrainState,
    eval_steps,
    random_key,
    train_steps,
)
from densenet_jax.train.trained import start_from


class Batches(NamedTuple):
    """What one dispatch works on: the first `count` rows of `indices` (`[rows, batch]`)."""

    indices: jax.Array
    count: np.int32


class Trainer:
    """Trains and evaluates what a config describes. Raises InputError for a wrong one.

    Args:
      config: an experiment's.
      data: the data set, preprocessed; None: the config's, read into memory.
      devices: where; None: on all.
      place: puts a tree of arrays on devices, by a sharding. `launch.plan` only notes where they
        would lie, and so lowers the same steps for devices that are not at hand.

    Attributes:
      data: the data set, on the host.
      steps_per_epoch: the last of them may be a short batch.
      learning_rate: function from step to learning rate.
      initial_state: the untrained network and its optimiser, on all devices. Training consumes it.
      model_config: what the network is, with the data's classes and channels.
      params: how many parameters the network has.
      compile_seconds: spent so far on compiling.
    """

    def __init__(self, config: ConfigDict, *, data=None, devices=None, place=place):
        check_config(config)
        self.config = config
        self.data = data or _load(config)
        examples = len(self.data.train.labels)
        if config.batch_size > examples:
            raise InputError(
                f"batch_size {config.batch_size} is larger than the training set of {examples}."
            )
        side, padding = min(self.data.train.images.shape[1:3]), config.data.crop_padding
        if config.data.augment and config.data.padding_mode == "reflect" and padding >= side:
            raise InputError(
                f"images of {side} pixels cannot be reflected by data.crop_padding {padding}: "
                f"lower it below {side}."
            )
        self._mesh = data_mesh(config.batch_size, devices)
        self._place = place
        self.steps_per_epoch = steps_per_epoch(config, examples)
        self.learning_rate = learning_rate(config, examples)
        self._learner, self.initial_state = self._build()
        self.params = sum(leaf.size for leaf in jax.tree.leaves(self.initial_state.params))
        self._resident = {
            split: place((part.images, part.labels), replicated(self._mesh))
            for split in ("train", "validation", "test")
            if (part := getattr(self.data, split)) is not None
        }
        # Many steps a dispatch keep an accelerator busy; on CPU loops are slow (see step.py).
        on_cpu = jax.default_backend() == "cpu"
        rows = config.steps_per_dispatch or (1 if on_cpu else 100)
        self._train_rows = min(rows, self.steps_per_epoch)
        self._eval_rows = 1 if on_cpu else 100
        self._compiled = {}
        self.compile_seconds = 0.0

    def _build(self) -> tuple[Learner, TrainState]:
        config = self.config
        settings = model_settings(config)
        classes, channels = self.data.num_classes, self.data.train.images.shape[-1]
        settings = {"num_classes": classes, "in_channels": channels} | settings
        if settings["num_classes"] < classes or settings["in_channels"] != channels:
            raise InputError(
                f"{config.data.name} has {classes} classes and {channels} channels, but the model "
                f"{settings['num_classes']} and {settings['in_channels']}: leave "
                "model.num_classes and model.in_channels unset."
            )
        rngs = nnx.Rngs(random_key(config.seed, INIT))
        self.model_config = model_config(config.model.name, **settings)
        model = FAMILIES[type(self.model_config)](self.model_config, rngs=rngs)
        graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
        params, batch_stats, other = map(nnx.to_pure_dict, states)
        learner = Learner(
            graphdef=graphdef,
            other=other,
            optimizer=optimizer(config, self.learning_rate, params),
            seed=config.seed,
            mean=self.data.mean,
            std=self.data.std,
            dtype=settings["dtype"],
            augment=config.data.augment,
            crop_padding=config.data.crop_padding,
            padding_mode=config.data.padding_mode,
            flip=config.data.flip,
            loss=config.loss,
            companion_weight=companion_weight(config, len(self.data.train.labels)),
        )
        step = jnp.zeros((), jnp.int32)
        opt_state = jax.jit(learner.optimizer.init)(params)  # One program, not one a shape.
        state = TrainState(step, params, batch_stats, opt_state)
        return learner, self._place(state, replicated(self._mesh))

    def initialize(self, source: str) -> None:
        """Lets training begin with the weights at `source`, see `trained.start_from`."""
        state = self.initial_state
        model = self._learner.model(state)
        start_from(model, source)
        params, batch_stats = (
            nnx.to_pure_dict(nnx.state(model, kind)) for kind in (nnx.Param, nnx.BatchStat)
        )
        state = dataclasses.replace(state, params=params, batch_stats=batch_stats)
        self.initial_state = self._place(state, replicated(self._mesh))

    def description(self) -> dict:
        """What is needed to use the network without the data, as JSON; for `trained.load`."""
        settings = dataclasses.asdict(self.model_config)
        data, scale = self.data, 255 / self.data.white
        return {
            "family": type(self.model_config).__name__,
            "settings": {k: v for k, v in settings.items() if k not in ("dtype", "param_dtype")},
            "crop": dataclasses.asdict(data.crop),
            "preprocessing": self.config.data.preprocessing,
            "mean": [scale * x for x in data.mean],
            "std": [scale * x for x in data.std],
            "classes": data.classes,
        }

    def compiled(self, split: str) -> jax.stages.Compiled:
        """The program of `lower`, compiled when it is first asked for."""
        if split not in self._compiled:
            started = time.monotonic()
            with _garbage_left_alone():
                lowered = self.lower(split)
            self._compiled[split] = lowered.compile()
            self.compile_seconds += time.monotonic() - started
        return self._compiled[split]

    def lower(self, split: str) -> jax.stages.Lowered:
        """The program of a dispatch: training steps for "train", else evaluation."""
        jit = functools.partial(jax.jit, out_shardings=replicated(self._mesh))
        arguments = (self.initial_state, self.sums(), *self._resident[split])
        if split == "train":
            function = jit(functools.partial(train_steps, learner=self._learner), donate_argnums=0)
            return function.lower(*arguments, *next(self.epoch_batches(0)), np.int32(0))
        function = jit(functools.partial(eval_steps, learner=self._learner))
        return function.lower(*arguments, *next(self._eval_batches(split)))

    def sums(self, **numbers: float) -> Sums:
        """Sums to go on from; over no examples by default."""
        zeros = {field.name: 0.0 for field in dataclasses.fields(Sums)}
        as_arrays = {
            name: np.asarray(number, self._learner.wide_dtype)
            for name, number in (zeros | numbers).items()
        }
        return self._place(Sums(**as_arrays), replicated(self._mesh))

    def epoch_batches(self, epoch: int, first: int = 0) -> Iterator[Batches]:
        """The dispatches of `epoch`, counted from 0; from the step `first` in it on."""
        order = resident.epoch_order(
            self.config.seed,
            epoch,
            len(self.data.train.labels),
            self.config.batch_size,
            self.config.data.drop_last,
        )
        return self._dispatches(order[first:], self._train_rows)

    def train(
        self, state: TrainState, sums: Sums, batches: Batches, epoch: int
    ) -> tuple[TrainState, Sums]:
        """Trains on `batches`. Consumes `state`; adds to `sums`. Does not wait for the devices."""
        program = self.compiled("train")
        return program(state, sums, *self._resident["train"], *batches, np.int32(epoch))

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """`test_loss`, a mean, and `test_error`, in percent; on every test example exactly once.

        If images are held out for validation, `validation_loss` and so on as well.
        """
        values = {}
        for split in ("validation", "test"):
            if split not in self._resident:
                continue
            program, sums = self.compiled(split), self.sums()
            for batches in self._eval_batches(split):
                sums = program(state, sums, *self._resident[split], *batches)
            values |= means(sums, split)
        return values

    def _eval_batches(self, split: str) -> Iterator[Batches]:
        devices = self._mesh.size
        batch_size = math.ceil(self.config.eval_batch_size / devices) * devices
        examples = len(getattr(self.data, split).labels)
        return self._dispatches(
            resident.in_batches(np.arange(examples), batch_size), self._eval_rows
        )

    def _dispatches(self, indices: np.ndarray, rows: int) -> Iterator[Batches]:
        """Cuts `indices` (`[steps, batch]`) into pieces of `rows` steps, all of one shape."""
        for start in range(0, len(indices), rows):
            piece = indices[start : start + rows]
            filled = np.full((rows, indices.shape[1]), resident.PADDING, np.int32)
            filled[: len(piece)] = piece
            placed = self._place(filled, batch_sharded(self._mesh, axis=1))
            yield Batches(placed, np.int32(len(piece)))


def _load(config: ConfigDict) -> sources.Dataset:
    data = config.data
    found = sources.load(data.name, data.directory, data.holdout, data.examples, data.image_size)
    return preprocess(found, data.preprocessing)


def training_batch(config: ConfigDict, examples: int) -> resident.Batch:
    """The first `examples` training images of a config, as its network sees them unaugmented."""
    data = _load(config)
    dtype = model_settings(config)["dtype"]
    indices = jnp.arange(min(examples, len(data.train.labels)))
    return resident.take(data.train.images, data.train.labels, indices, data.mean, data.std, dtype)


@contextlib.contextmanager
def _garbage_left_alone():
    """For tracing, whose millions of objects live on: a quarter of its time is looking at them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def memory_bytes(compiled: jax.stages.Compiled) -> dict[str, int]:
    """A program's memory on a device, by kind; in the total, output in an argument's place once."""
    analysis = compiled.memory_analysis()
    kinds = ("temp", "argument", "output", "alias", "generated_code")
    memory = {f"{kind}_bytes": getattr(analysis, f"{kind}_size_in_bytes") for kind in kinds}
    return memory | {"total_bytes": sum(memory.values()) - 2 * memory["alias_bytes"]}


def means(sums: Sums, prefix: str) -> dict[str, float]:
    """`{prefix}_loss` and `{prefix}_error`, in percent. Waits for the devices."""
    loss, errors, examples = (
        float(x) for x in jax.device_get((sums.loss, sums.errors, sums.examples))
    )
    return {f"{prefix}_loss": loss / examples, f"{prefix}_error": 100 * errors / examples}
