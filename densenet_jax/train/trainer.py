"""Everything that a run computes with: its data, its network and its compiled steps."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from densenet_jax.data.dataset import Dataset
from densenet_jax.errors import InputError, counted
from densenet_jax.models.catalog import FAMILIES, model_config
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.models.forms import choose_form
from densenet_jax.models.network import Network, NetworkConfig
from densenet_jax.train.compiler import compile_program, garbage_collection_paused
from densenet_jax.train.config import check_config, model_settings, steps_per_epoch
from densenet_jax.train.feed import MIRRORED, TEN_CROPS, Dispatch, Resident, Streamed
from densenet_jax.train.freezing import freeze, merged, trained
from densenet_jax.train.inputs import augmentation, load_data
from densenet_jax.train.losses import config_loss
from densenet_jax.train.mesh import data_mesh, place, platform, replicated
from densenet_jax.train.optimizer import (
    after_evaluation,
    companion_weight,
    learning_rate,
    optimizer,
    plateau_factor,
)
from densenet_jax.train.outputs import Outputs
from densenet_jax.train.progress import Clock, means
from densenet_jax.train.saved_network import start_from
from densenet_jax.train.step import (
    INIT,
    StepContext,
    Totals,
    TrainState,
    eval_steps,
    logits_steps,
    random_key,
    train_steps,
)

UNFROZEN = "train, unfrozen"  # Names the training program after the end of `freeze_epochs`.
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
      learning_rate: function from step to learning rate, before the drops of plateaus.
      initial_state: the untrained network and its optimiser, on all devices. Training donates it.
      model_config: the config of the network, with the classes and channels of the data.
      params, trained_params: number of parameters of the network, and of those that training
        changes before the end of `freeze_epochs`.
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
        self.data = data or load_data(config)
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
        self._context, self._unfrozen, self.initial_state = self._build()
        params = self.initial_state.params
        self.params, self.trained_params = (
            sum(leaf.size for leaf in jax.tree.leaves(tree))
            for tree in (params, trained(params, self._context.frozen))
        )
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

    def _build(self) -> tuple[StepContext, StepContext, TrainState]:
        """Returns the contexts before and after the end of `freeze_epochs`, and the first state."""
        config = self.config
        rngs = nnx.Rngs(random_key(config.seed, INIT))
        built, reason = choose_form(self.model_config, self._mesh.devices.flat[0])
        if config.freeze and isinstance(built, DenseNetConfig):
            built, reason = dataclasses.replace(built, block="xla"), "parameters are frozen"
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
            augmentation=augmentation(config, self.data),
            loss=config_loss(config, self.data),
            companion_weight=companion_weight(config, len(self.data.train)),
            flat_loop=platform(self._mesh) == "gpu" and not _needs_paths(config),
        )
        unfrozen = context
        if config.freeze:
            frozen = freeze(model, config.freeze)
            context = dataclasses.replace(context, graphdef=nnx.graphdef(model), frozen=frozen)
        step = jnp.zeros((), jnp.int32)
        # One program, not one a shape.
        opt_state = jax.jit(context.optimizer.init)(trained(params, context.frozen))
        state = TrainState(step, params, batch_stats, opt_state)
        return context, unfrozen, self._place(state, replicated(self._mesh))

    def untrained(self) -> Network:
        """Returns the network in its initial state."""
        return self._context.model(self.initial_state)

    def end_epoch(self, state: TrainState, line: dict) -> TrainState:
        """Returns the state that the next epoch begins with. `line` has the epoch's metrics.

        The end of `freeze_epochs` adds optimiser state, and a plateau lowers the learning rate.
        """
        opt_state = state.opt_state
        if line["epoch"] == self.config.freeze_epochs:
            init = jax.jit(self._context.optimizer.init, out_shardings=replicated(self._mesh))
            opt_state = merged(opt_state, init(state.params))
        if self.config.learning_rate_schedule == "plateau" and "validation_error" in line:
            opt_state = self._after_evaluation(opt_state, line["validation_error"])
        return dataclasses.replace(state, opt_state=opt_state)

    @functools.cached_property
    def _after_evaluation(self) -> Callable:
        function = functools.partial(after_evaluation, self.config)
        return jax.jit(function, out_shardings=replicated(self._mesh))

    def last_rate(self, state: TrainState) -> float:
        """Returns the learning rate of the step that led to `state`."""
        return float(self.learning_rate(state.step - 1)) * plateau_factor(state.opt_state)

    def state_like(self, step: int) -> TrainState:
        """Returns a train state with the shapes, types and shardings of that at `step`."""
        state, epochs = self.initial_state, self.config.freeze_epochs
        if not epochs or step < epochs * self.steps_per_epoch:
            return state
        opt_state = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(self._mesh)),
            jax.eval_shape(self._context.optimizer.init, state.params),
        )
        return dataclasses.replace(state, opt_state=opt_state)

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
            "multilabel": data.multilabel,
            "mean": [scale * x for x in data.mean],
            "std": [scale * x for x in data.std],
            "classes": data.classes,
        }

    def programs(self) -> list[tuple[str, int]]:
        """Returns the split and the number of crops of each program of a run, for `compiled`."""
        ten_crops = [("test", TEN_CROPS)] if self.config.data.ten_crops else []
        training = ["train", UNFROZEN] if self.config.freeze_epochs else ["train"]
        return [(split, 1) for split in (*training, *self._splits())] + ten_crops

    def compiled(self, split: str, crops: int = 1, steps: int | None = None) -> jax.stages.Compiled:
        """Returns the compiled program of `lower`; compiles it at the first call."""
        key = split, crops, steps or self._example(split, crops).steps
        if key not in self._compiled:
            with self.clock.measure("compiling"):
                with garbage_collection_paused(), self._tracing():
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
        is_unfrozen = split == UNFROZEN
        example = self._example(split, crops)
        if steps:
            example = example.of_steps(steps)
        last_step = self.config.epochs * self.steps_per_epoch
        state = self.state_like(last_step) if is_unfrozen else self.initial_state
        arguments = (state, self.totals(), *example)
        jit = functools.partial(jax.jit, out_shardings=replicated(self._mesh))
        if split in ("train", UNFROZEN):
            context = self._unfrozen if is_unfrozen else self._context
            function = functools.partial(train_steps, context=context)
            return jit(function, donate_argnums=0), (*arguments, np.int32(0))
        arguments = (_without_optimizer(state), *arguments[1:])
        evaluating = functools.partial(
            eval_steps, context=self._context, mirrored=crops == MIRRORED
        )
        return jit(evaluating), arguments

    def _example(self, split: str, crops: int) -> Dispatch:
        return self._feed.example("train" if split == UNFROZEN else split, _fed(crops))

    def totals(self, **numbers: float) -> Totals:
        """Returns totals with these `numbers`, and 0 for the others, on the devices."""
        # Early checkpoints lack the divisor and the labels, which equalled `examples`.
        numbers = dict.fromkeys(("divisor", "labels"), numbers.get("examples", 0.0)) | numbers
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
        frozen_epochs = self.config.freeze_epochs
        split = UNFROZEN if frozen_epochs and epoch >= frozen_epochs else "train"
        program = self.compiled(split, steps=dispatch.steps)
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
        state = _without_optimizer(state)
        for split in self._splits(crops):
            totals = self.totals()
            for dispatch in self._feed.evaluate(split, _fed(crops)):
                totals = self.compiled(split, crops, dispatch.steps)(state, totals, *dispatch)
            values |= means(totals, split)
            if isinstance(self._feed, Streamed):
                errors, examples = map(float, jax.device_get((totals.top5_errors, totals.examples)))
                if self.model_config.num_classes > TOP and not self.data.multilabel:
                    values[f"{split}_top5_error"] = 100 * errors / examples
                if broken := len(getattr(self.data, split)) - int(examples):
                    values[f"{split}_broken_pictures"] = broken
        if crops > 1:
            return {f"{key}_{crops}crop": x for key, x in values.items() if key.endswith("_error")}
        return values

    def logits(self, state: TrainState, split: str, crops: int = 1) -> Outputs:
        """Returns the logits and the labels of a split, on every host."""
        examples, classes = len(getattr(self.data, split)), self.model_config.num_classes
        outputs = Outputs.empty(examples, classes, self.data.label_shape)
        for dispatch in self._feed.evaluate(split, _fed(crops)):
            with self._tracing():
                found = self._logits(
                    _without_optimizer(state), *dispatch, mirrored=crops == MIRRORED
                )
            totals, labels, indices = jax.device_get(found)
            outputs.fill(totals / crops, labels, indices)
        return outputs

    @functools.cached_property
    def _logits(self) -> Callable:
        function = functools.partial(logits_steps, context=self._context)
        replicate = replicated(self._mesh)
        return jax.jit(function, static_argnames="mirrored", out_shardings=replicate)

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
    too_many = data.multilabel and settings["num_classes"] > classes
    if settings["num_classes"] < classes or too_many or settings["in_channels"] != channels:
        raise InputError(
            f"{config.data.name} has {counted(classes, 'class')} and "
            f"{counted(channels, 'channel')}, but the model has "
            f"{settings['num_classes']} and {settings['in_channels']}: leave "
            "model.num_classes and model.in_channels unset"
        )
    return model_config(config.model.name, **settings)


def _without_optimizer(state: TrainState) -> TrainState:
    """Returns the part of `state` that an evaluation needs, which the end of freezing keeps."""
    return dataclasses.replace(state, opt_state=())


def _needs_paths(config: ConfigDict) -> bool:
    """Returns whether steps need the paths of parameters, which a flat vector does not have."""
    return bool(config.learning_rate_multipliers or config.layer_decay != 1 or config.freeze)
