"""The training loop: one config in, one run directory out."""

import contextlib
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from densenet_jax.errors import Preempted, RunError, counted
from densenet_jax.models.labels import network_label
from densenet_jax.train import process
from densenet_jax.train.agreement import check_agreement
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.compiler import memory_bytes
from densenet_jax.train.config import check_config, model_overrides, snapshot_steps
from densenet_jax.train.ensemble import ensemble_error
from densenet_jax.train.failures import failures_reported
from densenet_jax.train.feed import TEN_CROPS
from densenet_jax.train.lock import RunLock
from densenet_jax.train.memory_budget import fitting
from densenet_jax.train.preemption import Preemption, StopRequested
from densenet_jax.train.progress import Progress, means, restore_clock, saved_lines
from densenet_jax.train.record import RunDirectory, best_epoch
from densenet_jax.train.reporter import Reporter
from densenet_jax.train.step import Totals, TrainState
from densenet_jax.train.tensorboard import event_log
from densenet_jax.train.trainer import Trainer


def fit(config: ConfigDict, workdir: str | Path) -> dict:
    """Trains as `config` specifies; returns the result and stores it in the run directory.

    Resumes from the newest checkpoint in `workdir`, if there is one: the result is that of an
    uninterrupted run, bit for bit. Returns the stored result of a finished run.

    Raises:
      InputError: the config is wrong, data are missing, or `workdir` belongs to another run. Raised
        before anything is compiled or written.
      RunError: the loss became infinite or NaN, or there is too little memory.
      Interrupted: the disk or another process of this run failed, or another run is using the
        directory. The same call resumes the run.
      Preempted: the process received a signal to stop, and saved a checkpoint of that very step.
    """
    process.configure()
    run = RunDirectory(workdir)
    check_config(config)
    run.check(config)
    if result := run.result():
        return result
    check_agreement(config, run.path)
    run.check_writable()
    with failures_reported(run), RunLock(run.path) as lock:
        run.check(config)  # Again, because another run may have held the lock until now.
        if result := run.result():
            return result
        with (
            Preemption() as preemption,
            contextlib.closing(Trainer(fitting(config))) as trainer,
            Reporter(config.epochs * trainer.steps_per_epoch, config.batch_size) as reporter,
        ):
            run.check_classes(trainer.data.classes)
            if config.init_from and not run.has_checkpoint():
                reporter.print(trainer.initialize(config.init_from))
            reporter.print(_describe(trainer))
            _check_average(trainer)
            if config.memory_gb:
                reporter.print(
                    f"model.remat is {trainer.config.model.remat}, to fit {config.memory_gb:g} GB"
                )
            for split, crops in trainer.programs():
                trainer.compiled(split, crops)
            reporter.print(f"compiled in {trainer.compile_seconds:.1f} s")
            run.start(config, trainer.description())
            snapshots = snapshot_steps(config, len(trainer.data.train))
            with (
                Checkpoints(run.checkpoints, snapshots=snapshots) as checkpoints,
                _divergence_reported(trainer, checkpoints),
            ):
                progress = _train(trainer, run, checkpoints, lock, preemption, reporter)
                of_ensemble = ensemble_error(trainer, checkpoints) if snapshots else {}
            result = _result(trainer, progress) | of_ensemble
            if "stopped_early" in result:
                reporter.print(f"stopped {result['stopped_early']}")
            run.finish(result)
    return result


def _train(
    trainer: Trainer,
    run: RunDirectory,
    checkpoints: Checkpoints,
    lock: RunLock,
    preemption: Preemption,
    reporter: Reporter,
) -> Progress:
    """Trains from the newest checkpoint, or from the start, to the last epoch or an early stop."""
    config, clock = trainer.config, trainer.clock
    state, progress = _begin(trainer, run, checkpoints, reporter)
    run.restore_metrics(progress.lines)
    reporter.start(progress.step, clock)

    def save() -> None:
        _check_state(state, progress)
        lock.check()
        best = progress.best["step"] if progress.best else None
        checkpoints.save(state, progress.to_json(clock), best=best)

    try:
        with event_log(run.path / "tensorboard", progress.step) as log_event:
            patience = config.early_stopping_epochs
            while progress.epoch < config.epochs and not progress.has_stalled(patience):
                epoch = progress.epoch  # From 0.
                is_last = epoch + 1 == config.epochs
                with clock.measure("training"):
                    for dispatch in trainer.epoch(epoch, first=progress.steps_of_epoch):
                        preemption.check(progress.step)
                        previous = progress.totals
                        state, progress.totals = trainer.train(state, previous, dispatch, epoch)
                        # Waiting for the previous dispatch leaves the devices this one to work on.
                        _check_loss(previous, progress)
                        progress.step += dispatch.steps
                        reporter.advance(dispatch.steps)
                    del dispatch, previous  # Frees the last images before the evaluation.
                    _check_loss(progress.totals, progress)
                    line = _training_metrics(trainer, state, progress)
                with clock.measure("evaluation"):
                    state = trainer.average(state, epoch)
                if is_last or (epoch + 1) % config.eval_every_epochs == 0:
                    with clock.measure("evaluation"):
                        line |= trainer.evaluate(state)
                        is_last = is_last or progress.has_stalled(patience, line)
                        if is_last and config.data.ten_crops:
                            line |= trainer.evaluate(state, TEN_CROPS)
                    _check_evaluation(line)
                lock.check()
                run.append_metrics(line)
                log_event(line)
                reporter.epoch(line, config.epochs)
                progress.end_epoch(line, trainer.totals())
                state = trainer.end_epoch(state, line)
                is_kept = progress.best is line or progress.step in checkpoints.snapshots
                if is_last or is_kept or (epoch + 1) % config.checkpoint_every_epochs == 0:
                    save()
    except StopRequested as stop:
        _check_loss(progress.totals, progress)
        if progress.step not in checkpoints.steps():
            save()
        checkpoints.wait()
        raise Preempted(
            f"received {stop.signal}; saved step {progress.step}. Run the same command again to "
            "resume"
        ) from None
    return progress


def _begin(
    trainer: Trainer, run: RunDirectory, checkpoints: Checkpoints, reporter: Reporter
) -> tuple[TrainState, Progress]:
    """Returns the train state and the progress of the newest checkpoint, or those of step 0."""
    state = trainer.initial_state
    saved: dict[str, Any] = {"epoch": 0, "sums": {}, "metrics": []}
    if checkpoints.steps():
        state, saved = checkpoints.restore(like=trainer.state_like)
        reporter.print(f"resuming from step {int(state.step)} in {run.path}")
    restore_clock(trainer.clock, saved)
    lines = saved_lines(saved, run)
    progress = Progress(
        step=int(state.step),
        epoch=saved["epoch"],
        totals=trainer.totals(**saved["sums"]),
        lines=lines,
        best=best_epoch(lines),
        steps_per_epoch=trainer.steps_per_epoch,
    )
    return state, progress


def _training_metrics(trainer: Trainer, state: TrainState, progress: Progress) -> dict:
    """Returns the metrics of an epoch that has trained its last step."""
    line = {
        "step": progress.step,
        "epoch": progress.epoch + 1,
        **means(progress.totals, "train"),
        "learning_rate": float(f"{trainer.last_rate(state):.6g}"),
    }
    if broken := trainer.images_per_epoch - int(progress.totals.examples):
        line["broken_pictures"] = broken
    return line


class _Diverged(Exception):
    """A loss, a parameter or a statistic that is infinite or NaN; the message names it."""

    def __init__(self, problem: str, step: int):
        super().__init__(problem)
        self.step = step


def _check_loss(totals: Totals, progress: Progress) -> None:
    """Waits for `totals`, of the next epoch. Raises _Diverged if their loss is not finite."""
    if not math.isfinite(loss := float(totals.loss)):
        first_step = progress.epoch * progress.steps_per_epoch
        step = first_step + int(totals.finite_batches) + 1
        raise _Diverged(f"the training loss is {loss}", step)


def _check_evaluation(line: dict) -> None:
    for name, value in line.items():
        if not math.isfinite(value):
            raise _Diverged(f"{name} is {value}", line["step"])


def _check_state(state: TrainState, progress: Progress) -> None:
    for leaf in jax.tree.leaves(state):
        if not np.isfinite(np.asarray(leaf)).all():
            raise _Diverged("a parameter or a statistic is infinite or NaN", progress.step)


@contextlib.contextmanager
def _divergence_reported(trainer: Trainer, checkpoints: Checkpoints) -> Iterator[None]:
    """Raises RunError, with the step and the last checkpoint, for a run that diverged."""
    try:
        yield
    except _Diverged as error:
        checkpoints.wait()
        saved = checkpoints.steps()
        kept = f"the checkpoint of step {saved[0]} is kept" if saved else "no checkpoint was saved"
        epoch = math.ceil(error.step / trainer.steps_per_epoch)
        raise RunError(
            f"{error} in step {error.step} (epoch {epoch}); {kept}: try a learning_rate below "
            f"{trainer.config.learning_rate:g}, in another directory"
        ) from None


def _result(trainer: Trainer, progress: Progress) -> dict:
    """Returns the content of result.json."""
    config, seconds, lines = trainer.config, trainer.clock.seconds, progress.lines
    best = best_epoch(lines)
    line = lines[-1] if config.report == "last_epoch" else best
    assert line is not None and best is not None  # The last epoch is always evaluated.
    has_broken = any(key.endswith("broken_pictures") for line in lines for key in line)
    epochs = len(lines)
    stop = (
        f"after epoch {epochs} of {config.epochs}: the lowest validation error was in epoch "
        f"{best['epoch']}"
    )
    return {
        **{key: value for key, value in line.items() if key not in ("step", "epoch")},
        "reported_epoch": line["epoch"],
        "model": config.model.name,
        "data": config.data.name,
        "official_data": trainer.data.official and not has_broken,
        "epochs": epochs,
        **({"stopped_early": stop} if epochs < config.epochs else {}),
        "params": trainer.params,
        "seed": config.seed,
        "train_seconds": round(seconds["training"] + seconds["evaluation"], 3),
        "images_per_second": round(epochs * trainer.images_per_epoch / seconds["training"], 1),
        "compile_seconds": round(trainer.compile_seconds, 3),
        "input_wait_seconds": round(seconds["input_wait"], 3),
        **_memory(trainer),
    }


def _memory(trainer: Trainer) -> dict[str, int]:
    """Returns bytes of one device: temporaries of a training step, and the peak if it is known."""
    found = {"step_temp_bytes": memory_bytes(trainer.compiled("train"))["temp_bytes"]}
    if statistics := jax.local_devices()[0].memory_stats():
        found["peak_memory_bytes"] = statistics["peak_bytes_in_use"]
    return found


def _check_average(trainer: Trainer) -> None:
    """Warns if the average of the weights still contains the initial weights at the end."""
    decay, steps = trainer.config.ema_decay, trainer.config.epochs * trainer.steps_per_epoch
    if (share := decay**steps) > 0.01:
        logging.warning(
            "ema_decay is %g: after the %s of the run, %.0f %% of the average are still the "
            "initial weights: lower it, or train longer",
            *(decay, counted(steps, "step"), 100 * share),
        )


def _describe(trainer: Trainer) -> str:
    config, data = trainer.config, trainer.data
    network = network_label(config.model.name, model_overrides(config))
    frozen = ""
    if trainer.trained_params < trainer.params:
        frozen = f" ({trainer.trained_params:,} of them are trained)"
    devices = jax.devices()
    return (
        f"{network}: {counted(trainer.params, 'parameter')}{frozen}; "
        f"{config.data.name}: {counted(len(data.train), 'training image')}, "
        f"{counted(len(data.test), 'test image')}; {counted(config.epochs, 'epoch')} of "
        f"{counted(trainer.steps_per_epoch, 'step')} on {len(devices)} x {devices[0].device_kind}"
    )
