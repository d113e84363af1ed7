"""The training loop: one config in, one run directory out."""

import dataclasses
import math
import time
from pathlib import Path
from typing import NoReturn

import jax
from ml_collections import ConfigDict

from densenet_jax.errors import Preempted, RunError
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.config import check_config
from densenet_jax.train.preemption import Preemption
from densenet_jax.train.progress import Reporter
from densenet_jax.train.record import RunDirectory, event_log
from densenet_jax.train.step import Sums, TrainState
from densenet_jax.train.trainer import Trainer, means


def fit(config: ConfigDict, workdir: str | Path) -> dict:
    """Trains as `config` says and returns the result, which it also leaves in the run directory.

    Goes on from the newest checkpoint in `workdir`, if there is one, as if it had never stopped.
    Leaves a finished run alone.

    Raises:
      InputError: wrong config, missing data, or the folder of another run; before anything is
        compiled or written.
      RunError: the loss became infinite or not a number.
      Preempted: SIGTERM came, and a checkpoint of that very step is saved.
    """
    run = RunDirectory(workdir)
    check_config(config)
    run.check(config)
    if result := run.result():
        return result
    trainer = Trainer(config)
    with Reporter(config.epochs * trainer.steps_per_epoch, config.batch_size) as reporter:
        reporter.say(_describe(trainer))
        trainer.compiled("train")
        reporter.say(f"compiled in {trainer.compile_seconds:.1f} s")
        run.start(config)
        with Checkpoints(run.checkpoints) as checkpoints:
            seconds = _train(trainer, run, checkpoints, reporter)
    line = _reported(config, run.metrics())
    examples = len(trainer.data.train.labels)
    images = config.epochs * min(examples, trainer.steps_per_epoch * config.batch_size)
    result = {
        **{key: value for key, value in line.items() if key not in ("step", "epoch")},
        "reported_epoch": line["epoch"],
        "model": config.model.name,
        "data": config.data.name,
        "official_data": trainer.data.official,
        "epochs": config.epochs,
        "params": trainer.params,
        "seed": config.seed,
        "train_seconds": round(seconds["total"], 3),
        "images_per_second": round(images / seconds["training"], 1),
        "compile_seconds": round(trainer.compile_seconds, 3),
    }
    run.finish(result)
    return result


def _reported(config: ConfigDict, lines: list[dict]) -> dict:
    """The line of metrics whose test error is the run's: the last, or the best in validation."""
    if config.report == "last_epoch":
        return lines[-1]
    evaluated = [line for line in lines if "validation_error" in line]
    return min(evaluated, key=lambda line: line["validation_error"])


@dataclasses.dataclass
class _Progress:
    """What is saved beside the train state: where in which epoch, and what it took so far."""

    epoch: int
    sums: Sums
    seconds: dict[str, float]

    def to_json(self) -> dict:
        sums = dataclasses.asdict(self.sums)
        numbers = {name: float(value) for name, value in jax.device_get(sums).items()}
        return {"epoch": self.epoch, "sums": numbers, "seconds": self.seconds}

    @classmethod
    def from_json(cls, found: dict, trainer: Trainer) -> "_Progress":
        return cls(found["epoch"], trainer.sums(**found["sums"]), found["seconds"])


def _train(
    trainer: Trainer, run: RunDirectory, checkpoints: Checkpoints, reporter: Reporter
) -> dict[str, float]:
    """Trains to the end. Returns the seconds of training steps, and of all, over all starts."""
    config = trainer.config
    state = trainer.initial_state
    progress = _Progress(0, trainer.sums(), {"training": 0.0, "total": 0.0})
    if checkpoints.latest_step() is not None:
        state, found = checkpoints.restore(like=state)
        progress = _Progress.from_json(found, trainer)
        reporter.say(f"going on from step {int(state.step)} in {run.path}")
    step, seconds = int(state.step), progress.seconds
    run.keep_metrics_until(step)
    reporter.start(step)
    with event_log(run, step) as log_event, Preemption() as preemption:
        while progress.epoch < config.epochs:
            last = progress.epoch + 1 == config.epochs
            started, compiling = time.monotonic(), trainer.compile_seconds
            state, line = _train_epoch(trainer, state, progress, reporter, preemption)
            seconds["training"] += time.monotonic() - started
            if line is None:
                seconds["total"] += time.monotonic() - started
                _stop(state, progress, checkpoints)
            _check_finite(line, checkpoints)
            if last or (progress.epoch + 1) % config.eval_every_epochs == 0:
                line |= trainer.evaluate(state)
            # The first evaluation compiles; that is told apart.
            compiling = trainer.compile_seconds - compiling
            seconds["total"] += time.monotonic() - started - compiling
            run.append_metrics(line)
            log_event(line)
            reporter.epoch(line, config.epochs)
            progress.epoch, progress.sums = progress.epoch + 1, trainer.sums()
            if last or progress.epoch % config.checkpoint_every_epochs == 0:
                checkpoints.save(state, progress.to_json())
    return seconds


def _train_epoch(
    trainer: Trainer,
    state: TrainState,
    progress: _Progress,
    reporter: Reporter,
    preemption: Preemption,
) -> tuple[TrainState, dict | None]:
    """Trains to the end of the epoch; returns the new state and the epoch's line of metrics.

    If the run is to stop before, there is no line, and `progress` tells how far it came.
    """
    first_step = progress.epoch * trainer.steps_per_epoch
    step = int(state.step)
    for batches in trainer.epoch_batches(progress.epoch, first=step - first_step):
        if preemption.noticed(step):
            return state, None
        previous = progress.sums
        state, progress.sums = trainer.train(state, previous, batches, progress.epoch)
        # Waiting for the dispatch before this one leaves the devices one to work on.
        jax.block_until_ready(previous)
        step += int(batches.count)
        reporter.advance(int(batches.count))
    rate = float(f"{trainer.learning_rate(step - 1):.6g}")
    return state, {
        "step": step,
        "epoch": progress.epoch + 1,
        **means(progress.sums, "train"),
        "learning_rate": rate,
    }


def _stop(state: TrainState, progress: _Progress, checkpoints: Checkpoints) -> NoReturn:
    step = int(state.step)
    if step != checkpoints.latest_step():
        checkpoints.save(state, progress.to_json())
        checkpoints.wait()
    raise Preempted(f"told to stop: step {step} is saved, and the same command goes on from there.")


def _check_finite(line: dict, checkpoints: Checkpoints) -> None:
    if math.isfinite(line["train_loss"]):
        return
    saved = checkpoints.latest_step()
    kept = f"the checkpoint of step {saved} is kept" if saved else "there is no checkpoint yet"
    raise RunError(
        f"the training loss is {line['train_loss']} in epoch {line['epoch']} (up to step "
        f"{line['step']}, learning rate {line['learning_rate']:g}); {kept}. "
        "Try a lower learning_rate."
    )


def _describe(trainer: Trainer) -> str:
    config, data = trainer.config, trainer.data
    devices = jax.devices()
    return (
        f"{config.model.name}: {trainer.params:,} parameters; {config.data.name}: "
        f"{len(data.train.labels):,} training and {len(data.test.labels):,} test images; "
        f"{config.epochs} epochs of {trainer.steps_per_epoch} steps "
        f"on {len(devices)} x {devices[0].device_kind}"
    )
