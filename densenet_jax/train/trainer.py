"""One config on one data set: the arrays on the devices and the compiled steps."""

import contextlib
import dataclasses
import functools
import gc
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from densenet_jax.data import sources
from densenet_jax.data.augmentation import Augmentation
from densenet_jax.data.batches import Batch, normalize
from densenet_jax.data.pictures import decode
from densenet_jax.data.preprocessing import preprocess
from densenet_jax.errors import InputError, counted
from densenet_jax.models.catalog import FAMILIES, model_config
from densenet_jax.train.compiler import compile_program
from densenet_jax.train.config import check_config, model_settings, steps_per_epoch
from densenet_jax.train.feed import TEN, Batches, Resident, Streamed
from densenet_jax.train.mesh import data_mesh, place, platform, replicated
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


class Trainer:
    """Trains and evaluates what a config describes. Raises InputError for a wrong one.

    Args:
      config: an experiment's.
      data: the data set, preprocessed; None: the config's.
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
        examples = len(self.data.train)
        if config.batch_size > examples:
            raise InputError(
                f"batch_size {config.batch_size} is larger than the training set of {examples}."
            )
        if config.data.ten_crops and not self.data.streamed:
            raise InputError(f"ten crops are of pictures, of which {config.data.name} has none.")
        self._mesh = data_mesh(config.batch_size, devices)
        self._place = place
        self.steps_per_epoch = steps_per_epoch(config, examples)
        self.learning_rate = learning_rate(config, examples)
        self._learner, self.initial_state = self._build()
        self.params = sum(leaf.size for leaf in jax.tree.leaves(self.initial_state.params))
        if self.data.streamed:
            self._feed = Streamed(config, self.data, self._mesh)
        else:
            self._feed = Resident(config, self.data, self._mesh, place)
        self._newest = self.initial_state.step
        self._compiled = {}
        self.compile_seconds = 0.0

    def close(self) -> None:
        """Ends the stream of pictures, if there is one."""
        self._feed.close()

    @property
    def input_wait_seconds(self) -> float:
        """For how long the devices have waited in training, with nothing to do, for data."""
        return self._feed.waited

    def _build(self) -> tuple[Learner, TrainState]:
        config = self.config
        settings = model_settings(config)
        classes, channels = self.data.num_classes, self.data.image_shape[-1]
        settings = {"num_classes": classes, "in_channels": channels} | settings
        if settings["num_classes"] < classes or settings["in_channels"] != channels:
            raise InputError(
                f"{config.data.name} has {counted(classes, 'class')} and "
                f"{counted(channels, 'channel')}, but the model "
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
            augmentation=_augmentation(config, self.data),
            loss=config.loss,
            label_smoothing=config.label_smoothing,
            companion_weight=companion_weight(config, len(self.data.train)),
            # Multipliers find parameters by their paths, which a flat vector has not.
            flat_loop=platform(self._mesh) == "gpu" and not config.learning_rate_multipliers,
        )
        step = jnp.zeros((), jnp.int32)
        opt_state = jax.jit(learner.optimizer.init)(params)  # One program, not one a shape.
        state = TrainState(step, params, batch_stats, opt_state)
        return learner, self._place(state, replicated(self._mesh))

    def untrained(self) -> nnx.Module:
        """The network in its initial state."""
        return self._learner.model(self.initial_state)

    def initialize(self, source: str) -> None:
        """Lets training begin with the weights at `source`, see `trained.start_from`."""
        state, model = self.initial_state, self.untrained()
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

    def compiled(self, split: str, crops: int = 1, steps: int | None = None) -> jax.stages.Compiled:
        """Returns the program of `lower`, compiled when it is first asked for."""
        key = split, crops, steps or self._feed.example(split, crops).steps
        if key not in self._compiled:
            started = time.monotonic()
            with _garbage_left_alone():
                lowered = self.lower(*key)
            program = compile_program(lowered, self.config, platform(self._mesh))
            self._compiled[key] = program
            self.compile_seconds += time.monotonic() - started
        return self._compiled[key]

    def lower(self, split: str, crops: int = 1, steps: int | None = None) -> jax.stages.Lowered:
        """Returns the program of a dispatch: training steps for "train", else evaluation.

        Args:
          steps: of the dispatch; None: as many as the first dispatch of an epoch has.
        """
        jit = functools.partial(jax.jit, out_shardings=replicated(self._mesh))
        example = self._feed.example(split, crops)
        if steps:
            example = example.of_steps(steps)
        arguments = (self.initial_state, self.sums(), *example)
        with _matmul_precision(self.config):
            if split == "train":
                function = functools.partial(train_steps, learner=self._learner)
                return jit(function, donate_argnums=0).lower(*arguments, np.int32(0))
            function = jit(functools.partial(eval_steps, learner=self._learner))
            return function.lower(*arguments)

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
        return self._feed.train(epoch, first, lambda: jax.block_until_ready(self._newest))

    def train(
        self, state: TrainState, sums: Sums, batches: Batches, epoch: int
    ) -> tuple[TrainState, Sums]:
        """Trains on `batches`. Consumes `state`; adds to `sums`. Does not wait for the devices."""
        program = self.compiled("train", steps=batches.steps)
        state, sums = program(state, sums, *batches, np.int32(epoch))
        self._newest = sums
        return state, sums

    def evaluate(self, state: TrainState, crops: int = 1) -> dict[str, float]:
        """`test_loss`, a mean, and `test_error`, in percent; on every test example exactly once.

        Of pictures, `test_top5_error` as well, and `test_broken_pictures` if some were skipped:
        errors are of the others. If images are held out for validation,
        `validation_loss` and so on.

        Args:
          crops: 10, of pictures, to add the logits of ten crops of each; then what is returned is
            `test_error_10crop` and `test_top5_error_10crop`.
        """
        values = {}
        for split in ("validation", "test"):
            if getattr(self.data, split) is None or (crops == TEN and split != "test"):
                continue
            sums = self.sums()
            for batches in self._feed.evaluate(split, crops):
                sums = self.compiled(split, crops, batches.steps)(state, sums, *batches)
            values |= means(sums, split)
            if self.data.streamed:
                errors, examples = map(float, jax.device_get((sums.top5_errors, sums.examples)))
                values[f"{split}_top5_error"] = 100 * errors / examples
                if broken := len(getattr(self.data, split)) - int(examples):
                    values[f"{split}_broken_pictures"] = broken
        if crops == TEN:
            return {f"{key}_10crop": x for key, x in values.items() if key.endswith("_error")}
        return values


def _load(config: ConfigDict) -> sources.Dataset:
    data = config.data
    found = sources.load(data.name, data.directory, data.holdout, data.examples, data.image_size)
    return preprocess(found, data.preprocessing)


def training_batch(config: ConfigDict, examples: int) -> Batch:
    """The first `examples` training images of a config, as its network sees them unaugmented."""
    data = _load(config)
    dtype = model_settings(config)["dtype"]
    if data.streamed:
        chosen = [data.train[i] for i in range(min(examples, len(data.train)))]
        pictures = [decode(encoded.data, config.data.max_pixels) for encoded in chosen]
        images = np.stack([data.crop(picture) for picture in pictures])
        labels = np.array([encoded.label for encoded in chosen])
    else:
        images, labels = data.train.images[:examples], data.train.labels[:examples]
    return normalize(images, labels, np.arange(len(labels)), data.mean, data.std, dtype)


def _augmentation(config: ConfigDict, data: sources.Dataset) -> Augmentation | None:
    """Raises InputError for what cannot be done to the images of `data`."""
    wanted = config.data
    if not wanted.augment:
        return None
    side = min(data.image_shape[:2])
    if wanted.padding_mode == "reflect" and wanted.crop_padding >= side:
        raise InputError(
            f"images of {counted(side, 'pixel')} cannot be reflected by data.crop_padding "
            f"{wanted.crop_padding}: lower it below {side}."
        )
    if wanted.random_crop == "resized" and not data.streamed:
        raise InputError(
            f"data.random_crop 'resized' is for pictures, not for {wanted.name}: set it to "
            "'padded', or data.name to imagenet or folder."
        )
    padding = 0 if wanted.random_crop == "resized" else wanted.crop_padding
    colors = wanted.color_jitter, wanted.lighting
    if any(colors) and (data.image_shape[-1] != 3 or wanted.preprocessing != "standardize"):
        raise InputError(
            "data.color_jitter and data.lighting are for images of three colours with "
            "data.preprocessing 'standardize': set them to 0."
        )
    return Augmentation(padding, wanted.padding_mode, wanted.flip, *colors, data.white)


def _matmul_precision(config: ConfigDict) -> contextlib.AbstractContextManager:
    """Sets the precision of products while a program is traced, if the config names one."""
    precision = config.matmul_precision
    # None would override JAX_DEFAULT_MATMUL_PRECISION.
    return jax.default_matmul_precision(precision) if precision else contextlib.nullcontext()


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
    """Returns `{prefix}_loss` and `{prefix}_error`, in percent. Waits for the devices.

    Raises InputError if there are no examples, because no picture could be read.
    """
    loss, errors, examples = (
        float(x) for x in jax.device_get((sums.loss, sums.errors, sums.examples))
    )
    if not examples:
        raise InputError(f"none of the {prefix} pictures can be read: replace them")
    return {f"{prefix}_loss": loss / examples, f"{prefix}_error": 100 * errors / examples}
