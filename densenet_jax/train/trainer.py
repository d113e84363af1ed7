"""Everything that a run computes with: its data, its network and its compiled steps."""

import contextlib
import dataclasses
import functools
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from densenet_jax.data import sources
from densenet_jax.data.augmentation import Augmentation
from densenet_jax.data.batches import Batch, normalize
from densenet_jax.data.dataset import Dataset, Split
from densenet_jax.data.pictures import decode
from densenet_jax.data.preprocessing import preprocess
from densenet_jax.errors import InputError, counted
from densenet_jax.models.catalog import FAMILIES, model_config
from densenet_jax.models.forms import choose_form
from densenet_jax.models.network import Network, NetworkConfig
from densenet_jax.train.compiler import compile_program
from densenet_jax.train.config import check_config, model_settings, steps_per_epoch
from densenet_jax.train.feed import MIRRORED, TEN_CROPS, Dispatch, Resident, Streamed
from densenet_jax.train.mesh import data_mesh, place, platform, replicated
from densenet_jax.train.optimizer import companion_weight, learning_rate, optimizer
from densenet_jax.train.progress import Clock
from densenet_jax.train.saved_network import start_from
from densenet_jax.train.step import (
    INIT,
    StepContext,
    Totals,
    TrainState,
    eval_steps,
    random_key,
    train_steps,
)

TOP = 5  # Of at most five classes, the right class is always among the five best.


class Trainer:
    """The data, the network and the compiled steps of one config. Raises InputError if it is wrong.

    Args:
      config: the config of an experiment.
      data: the preprocessed data set; None: loads the data set of the config.
      devices: the devices to train on; None: all devices.
      place: puts a tree of arrays on devices, by a sharding. `launch.plan` passes a function that
        only records the sharding, and so lowers the same steps for devices that are not there.

    Attributes:
      data: the data set, on the host.
      steps_per_epoch: number of training steps; the last one may have a short batch.
      images_per_epoch: number of images that an epoch trains on.
      learning_rate: function from step to learning rate.
      initial_state: the untrained network and its optimiser, on all devices. Training donates it.
      model_config: the config of the network, with the classes and channels of the data.
      params: number of parameters of the network.
      clock: measures "compiling"; a caller measures "training", of which "input_wait" are the
        seconds for which the devices waited for data.
    """

    def __init__(
        self,
        config: ConfigDict,
        *,
        data: Dataset | None = None,
        devices: Sequence[jax.Device] | None = None,
        place: Callable = place,
    ):
        check_config(config)
        self.config = config
        self.data = data or _load(config)
        examples = len(self.data.train)
        if config.batch_size > examples:
            raise InputError(
                f"batch_size {config.batch_size} is larger than the training set "
                f"({counted(examples, 'image')}): use at most {examples}"
            )
        if config.data.ten_crops and not self.data.streamed:
            raise InputError(
                f"data.ten_crops is for pictures, and {config.data.name} has none: set it to False"
            )
        self._mesh = data_mesh(config.batch_size, devices)
        self._place = place
        self.steps_per_epoch = steps_per_epoch(config, examples)
        self.images_per_epoch = min(examples, self.steps_per_epoch * config.batch_size)
        self.learning_rate = learning_rate(config, examples)
        self.model_config = _model_config(config, self.data)
        self._context, self.initial_state = self._build()
        self.params = sum(leaf.size for leaf in jax.tree.leaves(self.initial_state.params))
        self.clock = Clock()
        self._feed: Resident | Streamed
        if self.data.streamed:
            self._feed = Streamed(config, self.data, self._mesh, self.clock)
        else:
            self._feed = Resident(config, self.data, self._mesh, place)
        self._newest: Any = self.initial_state.step  # Ready once the devices have finished.
        self._compiled: dict[tuple[str, int, int], jax.stages.Compiled] = {}

    def close(self) -> None:
        """Ends the stream of pictures, if there is one."""
        self._feed.close()

    @property
    def compile_seconds(self) -> float:
        return self.clock.seconds["compiling"]

    def _build(self) -> tuple[StepContext, TrainState]:
        config = self.config
        rngs = nnx.Rngs(random_key(config.seed, INIT))
        built, reason = choose_form(self.model_config, self._mesh.devices.flat[0])
        if getattr(self.model_config, "block", "") == "kernels" and built != self.model_config:
            logging.warning("model.block is kernels, but dense blocks use plain JAX: %s", reason)
        model = FAMILIES[type(built)](built, rngs=rngs)
        graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
        params, batch_stats, other = map(nnx.to_pure_dict, states)
        context = StepContext(
            graphdef=graphdef,
            other=other,
            optimizer=optimizer(config, self.learning_rate, params),
            seed=config.seed,
            mean=self.data.mean,
            std=self.data.std,
            dtype=self.model_config.dtype,
            augmentation=_augmentation(config, self.data),
            loss=config.loss,
            label_smoothing=config.label_smoothing,
            companion_weight=companion_weight(config, len(self.data.train)),
            # Multipliers find parameters by their paths, which a flat vector does not have.
            flat_loop=platform(self._mesh) == "gpu" and not config.learning_rate_multipliers,
        )
        step = jnp.zeros((), jnp.int32)
        opt_state = jax.jit(context.optimizer.init)(params)  # One program, not one a shape.
        state = TrainState(step, params, batch_stats, opt_state)
        return context, self._place(state, replicated(self._mesh))

    def untrained(self) -> Network:
        """Returns the network in its initial state."""
        return self._context.model(self.initial_state)

    def initialize(self, source: str) -> str:
        """Replaces the initial weights by those at `source`; see `saved_network.start_from`."""
        state, model = self.initial_state, self.untrained()
        loaded = start_from(model, source)
        params, batch_stats = (
            nnx.to_pure_dict(nnx.state(model, kind)) for kind in (nnx.Param, nnx.BatchStat)
        )
        state = dataclasses.replace(state, params=params, batch_stats=batch_stats)
        self.initial_state = self._place(state, replicated(self._mesh))
        return loaded

    def description(self) -> dict:
        """Returns, for model.json, how to use the network without its data."""
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

    def programs(self) -> list[tuple[str, int]]:
        """Returns the split and the number of crops of each program of a run, for `compiled`."""
        ten_crops = [("test", TEN_CROPS)] if self.config.data.ten_crops else []
        return [(split, 1) for split in ("train", *self._splits())] + ten_crops

    def compiled(self, split: str, crops: int = 1, steps: int | None = None) -> jax.stages.Compiled:
        """Returns the compiled program of `lower`; compiles it at the first call."""
        key = split, crops, steps or self._feed.example(split, _fed(crops)).steps
        if key not in self._compiled:
            with self.clock.measure("compiling"):
                with _garbage_collection_paused(), self._tracing():
                    function, arguments = self._program(*key)
                    lowered = function.lower(*arguments)
                program = compile_program(lowered, self.config, platform(self._mesh))
            self._compiled[key] = program
        return self._compiled[key]

    def lower(self, split: str, crops: int = 1, steps: int | None = None) -> jax.stages.Lowered:
        """Returns the program of one dispatch: training for the split "train", else evaluation.

        Args:
          steps: number of steps in the dispatch; None: as many as the first one of an epoch has.
        """
        with self._tracing():
            function, arguments = self._program(split, crops, steps)
            return function.lower(*arguments)

    @contextlib.contextmanager
    def _tracing(self) -> Iterator[None]:
        """Sets what a program is traced with: the mesh, and the precision of matrix products."""
        precision = self.config.matmul_precision
        # None would override JAX_DEFAULT_MATMUL_PRECISION.
        products = (
            jax.default_matmul_precision(precision) if precision else contextlib.nullcontext()
        )
        with jax.set_mesh(self._mesh), products:
            yield

    def _program(self, split: str, crops: int, steps: int | None) -> tuple[Any, tuple]:
        """Returns the jitted function of a dispatch, and examples of its arguments."""
        example = self._feed.example(split, _fed(crops))
        if steps:
            example = example.of_steps(steps)
        arguments = (self.initial_state, self.totals(), *example)
        jit = functools.partial(jax.jit, out_shardings=replicated(self._mesh))
        if split == "train":
            function = functools.partial(train_steps, context=self._context)
            return jit(function, donate_argnums=0), (*arguments, np.int32(0))
        evaluating = functools.partial(
            eval_steps, context=self._context, mirrored=crops == MIRRORED
        )
        return jit(evaluating), arguments

    def totals(self, **numbers: float) -> Totals:
        """Returns totals with these `numbers`, and 0 for the others, on the devices."""
        arrays: dict[str, Any] = {
            field.name: np.asarray(numbers.get(field.name, 0.0), self.model_config.param_dtype)
            for field in dataclasses.fields(Totals)
        }
        return self._place(Totals(**arrays), replicated(self._mesh))

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Dispatch]:
        """Yields the dispatches of `epoch` (from 0), beginning with its step number `first`."""
        return self._feed.train(epoch, first, lambda: jax.block_until_ready(self._newest))

    def train(
        self, state: TrainState, totals: Totals, dispatch: Dispatch, epoch: int
    ) -> tuple[TrainState, Totals]:
        """Trains on `dispatch`, without waiting for the devices. Donates `state`."""
        program = self.compiled("train", steps=dispatch.steps)
        state, totals = program(state, totals, *dispatch, np.int32(epoch))
        self._newest = totals
        return state, totals

    def evaluate(self, state: TrainState, crops: int = 1) -> dict[str, float]:
        """Returns `test_loss`, a mean, and `test_error` in percent, over every test example.

        For pictures also returns `test_top5_error` if the network has more than five classes, and
        `test_broken_pictures` if some were skipped: errors are of the others. If images are held
        out for validation, returns `validation_loss` and so on as well.

        Args:
          crops: 2 adds the logits of each image and its mirror image. 10, for pictures, adds the
            logits of ten crops of each picture. Then the result is `test_error_2crop` or
            `test_error_10crop`, and `test_top5_error_10crop` and so on.
        """
        values: dict[str, float] = {}
        for split in self._splits(crops):
            totals = self.totals()
            for dispatch in self._feed.evaluate(split, _fed(crops)):
                totals = self.compiled(split, crops, dispatch.steps)(state, totals, *dispatch)
            values |= means(totals, split)
            if isinstance(self._feed, Streamed):
                errors, examples = map(float, jax.device_get((totals.top5_errors, totals.examples)))
                if self.model_config.num_classes > TOP:
                    values[f"{split}_top5_error"] = 100 * errors / examples
                if broken := len(getattr(self.data, split)) - int(examples):
                    values[f"{split}_broken_pictures"] = broken
        if crops > 1:
            return {f"{key}_{crops}crop": x for key, x in values.items() if key.endswith("_error")}
        return values

    def _splits(self, crops: int = 1) -> list[str]:
        """Returns the splits that an evaluation covers: with several crops, test images only."""
        if crops > 1 or self.data.validation is None:
            return ["test"]
        return ["validation", "test"]


def _fed(crops: int) -> int:
    """Returns the number of crops that the feed cuts out of each picture."""
    return 1 if crops == MIRRORED else crops


def _model_config(config: ConfigDict, data: Dataset) -> NetworkConfig:
    settings = model_settings(config)
    classes, channels = data.num_classes, data.image_shape[-1]
    settings = {"num_classes": classes, "in_channels": channels} | settings
    if settings["num_classes"] < classes or settings["in_channels"] != channels:
        raise InputError(
            f"{config.data.name} has {counted(classes, 'class')} and "
            f"{counted(channels, 'channel')}, but the model has "
            f"{settings['num_classes']} and {settings['in_channels']}: leave "
            "model.num_classes and model.in_channels unset"
        )
    return model_config(config.model.name, **settings)


def _load(config: ConfigDict) -> Dataset:
    data = config.data
    found = sources.load(
        *(data.name, data.directory, data.holdout, data.examples, data.image_size),
        *(data.folds, data.fold, data.holdout_stratified),
    )
    return preprocess(found, data.preprocessing)


def training_batch(config: ConfigDict, examples: int) -> Batch:
    """Returns the first `examples` training images as the network sees them, not augmented."""
    data = _load(config)
    dtype = model_settings(config)["dtype"]
    if isinstance(data.train, Split):
        images, labels = data.train.images[:examples], data.train.labels[:examples]
    else:
        chosen = [data.train[i] for i in range(min(examples, len(data.train)))]
        pictures = [decode(encoded.data, config.data.max_pixels) for encoded in chosen]
        images = np.stack([data.crop(picture) for picture in pictures])
        labels = np.array([encoded.label for encoded in chosen])
    indices = jnp.arange(len(labels))
    return normalize(jnp.asarray(images), jnp.asarray(labels), indices, data.mean, data.std, dtype)


def _augmentation(config: ConfigDict, data: Dataset) -> Augmentation | None:
    """Returns the augmentation of a config. Raises InputError if it cannot be done to `data`."""
    wanted = config.data
    if not wanted.augment:
        return None
    side = min(data.image_shape[:2])
    if wanted.padding_mode == "reflect" and wanted.crop_padding >= side:
        raise InputError(
            f"images of {counted(side, 'pixel')} cannot be reflected by data.crop_padding "
            f"{wanted.crop_padding}: lower it below {side}"
        )
    if wanted.random_crop == "resized" and not data.streamed:
        raise InputError(
            f"data.random_crop 'resized' is for pictures, not for {wanted.name}: set it to "
            "'padded', or data.name to imagenet or folder"
        )
    padding = 0 if wanted.random_crop == "resized" else wanted.crop_padding
    colors = wanted.color_jitter, wanted.lighting
    if any(colors) and (data.image_shape[-1] != 3 or wanted.preprocessing != "standardize"):
        raise InputError(
            "data.color_jitter and data.lighting are for images of three colours with "
            "data.preprocessing 'standardize': set them to 0"
        )
    return Augmentation(padding, wanted.padding_mode, wanted.flip, *colors, data.white)


@contextlib.contextmanager
def _garbage_collection_paused():
    """Pauses the collector while a program is traced, of whose time it would take a quarter."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def memory_bytes(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Returns the memory of a program on a device, by kind.

    The total counts output that takes the place of an argument once.
    """
    analysis = compiled.memory_analysis()
    kinds = ("temp", "argument", "output", "alias", "generated_code")
    memory = {f"{kind}_bytes": getattr(analysis, f"{kind}_size_in_bytes") for kind in kinds}
    return memory | {"total_bytes": sum(memory.values()) - 2 * memory["alias_bytes"]}


def means(totals: Totals, prefix: str) -> dict[str, float]:
    """Returns `{prefix}_loss` and `{prefix}_error`, in percent. Waits for the devices.

    Raises InputError if there are no examples, because no picture could be read.
    """
    loss, errors, examples = (
        float(x) for x in jax.device_get((totals.loss, totals.errors, totals.examples))
    )
    if not examples:
        raise InputError(f"none of the {prefix} pictures can be read: replace them")
    return {f"{prefix}_loss": loss / examples, f"{prefix}_error": 100 * errors / examples}
