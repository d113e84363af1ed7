"""Everything that a run computes with: its data, its network and its compiled steps."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from densenet_jax.data.dataset import Dataset
from densenet_jax.errors import InputError, counted
from densenet_jax.models.network import Network
from densenet_jax.train.averaging import recomputed, statistics_steps
from densenet_jax.train.build import build, copied, network_config
from densenet_jax.train.compiler import compile_program, garbage_collection_paused
from densenet_jax.train.config import check_config, steps_per_epoch
from densenet_jax.train.feed import MIRRORED, TEN_CROPS, Dispatch, Resident, Streamed
from densenet_jax.train.freezing import trained
from densenet_jax.train.inputs import load_data
from densenet_jax.train.mesh import data_mesh, place, platform, replicated
from densenet_jax.train.optimizer import (
    after_evaluation,
    learning_rate,
    plateau_factor,
    unfrozen,
)
from densenet_jax.train.outputs import Outputs
from densenet_jax.train.progress import Clock, means, of_pictures
from densenet_jax.train.saved_network import start_from
from densenet_jax.train.step import (
    Totals,
    TrainState,
    eval_steps,
    logits_steps,
    moved,
    train_steps,
)

UNFROZEN = "train, unfrozen"  # Names the training program after the end of `freeze_epochs`.
STATISTICS = "statistics"  # Names the program that recomputes running statistics.
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
        self._mesh = data_mesh(config.batch_size, devices, config.accumulate)
        self._place = place
        self.steps_per_epoch = steps_per_epoch(config, examples)
        self.images_per_epoch = min(examples, self.steps_per_epoch * config.batch_size)
        self.learning_rate = learning_rate(config, examples)
        self.model_config = network_config(config, self.data)
        self._context, self._unfrozen, state = build(
            config, self.data, self.model_config, self.learning_rate, self._mesh
        )
        self.initial_state = self._place(state, replicated(self._mesh))
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
            opt_state = unfrozen(opt_state, init(state.params))
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
        if state.average is not None:
            state = dataclasses.replace(state, average=copied(state.weights))
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
            "averaged": self.initial_state.average is not None,
            "mean": [scale * x for x in data.mean],
            "std": [scale * x for x in data.std],
            "classes": data.classes,
        }

    def programs(self) -> list[tuple[str, int]]:
        """Returns the split and the number of crops of each program of a run, for `compiled`."""
        ten_crops = [("test", TEN_CROPS)] if self.config.data.ten_crops else []
        training = ["train"]
        training += [UNFROZEN] * bool(self.config.freeze_epochs)
        training += [STATISTICS] * (self.config.swa_epochs > 1)
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
        network = _network(state)
        if split == STATISTICS:
            context = self._unfrozen if self.config.freeze_epochs else self._context
            function = functools.partial(statistics_steps, context=context)
            sums = self._place(_no_sums(network), replicated(self._mesh))
            return jit(function), (network, sums, *example, np.int32(0))
        arguments = (network, *arguments[1:])
        evaluating = functools.partial(
            eval_steps, context=self._context, mirrored=crops == MIRRORED
        )
        return jit(evaluating), arguments

    def _example(self, split: str, crops: int) -> Dispatch:
        is_training = split in (UNFROZEN, STATISTICS)
        return self._feed.example("train" if is_training else split, _fed(crops))

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

    def average(self, state: TrainState, epoch: int) -> TrainState:
        """Returns `state` after `epoch` (from 0), with the average that `swa_epochs` asks for.

        Until the second of the last `swa_epochs` epochs the average equals the weights.
        """
        config = self.config
        if not config.swa_epochs:
            return state
        number = epoch + 1 - (config.epochs - config.swa_epochs)
        jit = functools.partial(jax.jit, out_shardings=replicated(self._mesh))
        if number < 2:
            average = jax.tree.map(jnp.copy, state.weights)
            return dataclasses.replace(state, average=average)
        average = jit(moved)(state.average, state.weights, 1 / number)
        network = _network(dataclasses.replace(state, average=average))
        sums = self._place(_no_sums(network), replicated(self._mesh))
        for dispatch in self.epoch(epoch):
            program = self.compiled(STATISTICS, steps=dispatch.steps)
            sums = program(network, sums, *dispatch, np.int32(epoch))
            self._newest = sums
        stats = jit(recomputed)(network.batch_stats, sums)
        average = {"params": network.params, "batch_stats": stats}
        return dataclasses.replace(state, average=average)

    def evaluate(self, state: TrainState, crops: int = 1) -> dict[str, float]:
        """Returns `test_loss`, a mean, and `test_error` in percent, over every test example.

        If the run averages its weights, these are of the average, and `raw_test_error` and so on
        are of the weights themselves.

        For pictures also returns `test_top5_error` if the network has more than five classes, and
        `test_broken_pictures` if some were skipped: errors are of the others. If images are held
        out for validation, returns `validation_loss` and so on as well.

        Args:
          crops: 2 adds the logits of each image and its mirror image. 10, for pictures, adds the
            logits of ten crops of each picture. Then the result is `test_error_2crop` or
            `test_error_10crop`, and `test_top5_error_10crop` and so on.
        """
        values = self._evaluate(_network(state), crops)
        if self._is_averaged(state):
            raw = self._evaluate(_network(dataclasses.replace(state, average=None)), crops)
            values |= {
                f"raw_{key}": x for key, x in raw.items() if key.endswith(("_loss", "_error"))
            }
        if crops > 1:
            return {f"{key}_{crops}crop": x for key, x in values.items() if key.endswith("_error")}
        return values

    def _is_averaged(self, state: TrainState) -> bool:
        """Returns whether the average differs from the weights."""
        config = self.config
        first = (config.epochs - config.swa_epochs + 1) * self.steps_per_epoch
        return bool(config.ema_decay or (config.swa_epochs and int(state.step) > first))

    def _evaluate(self, network: TrainState, crops: int) -> dict[str, float]:
        values: dict[str, float] = {}
        for split in self._splits(crops):
            totals = self.totals()
            for dispatch in self._feed.evaluate(split, _fed(crops)):
                totals = self.compiled(split, crops, dispatch.steps)(network, totals, *dispatch)
            values |= means(totals, split)
            if isinstance(self._feed, Streamed):
                has_top5 = self.model_config.num_classes > TOP and not self.data.multilabel
                pictures = len(getattr(self.data, split))
                values |= of_pictures(totals, split, pictures, has_top5)
        return values

    def logits(self, state: TrainState, split: str, crops: int = 1) -> Outputs:
        """Returns the logits and the labels of a split, on every host."""
        examples, classes = len(getattr(self.data, split)), self.model_config.num_classes
        outputs = Outputs.empty(examples, classes, self.data.label_shape)
        for dispatch in self._feed.evaluate(split, _fed(crops)):
            with self._tracing():
                found = self._logits(_network(state), *dispatch, mirrored=crops == MIRRORED)
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


def _no_sums(network: TrainState) -> tuple:
    """Returns the sums of `averaging.statistics_steps` before the first batch."""
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), network.batch_stats)
    return np.int32(0), zeros


def _network(state: TrainState) -> TrainState:
    """Returns the part of `state` that an evaluation needs: the average weights, or the only ones.

    The end of freezing leaves its structure.
    """
    if state.average is None:
        return dataclasses.replace(state, opt_state=())
    return TrainState(state.step, **state.average, opt_state=())
