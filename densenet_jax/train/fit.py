"""The training loop: one config in, one run directory out."""

import contextlib
import dataclasses
import hashlib
import json
import math
import time
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from densenet_jax.errors import InputError, Preempted, RunError, counted
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.config import check_config, flatten
from densenet_jax.train.failures import telling_of_failures
from densenet_jax.train.feed import TEN
from densenet_jax.train.lock import RunLock
from densenet_jax.train.preemption import Preemption
from densenet_jax.train.progress import Reporter
from densenet_jax.train.record import RunDirectory, best_epoch, differing, versions
from densenet_jax.train.step import Sums, TrainState
from densenet_jax.train.tensorboard import event_log
from densenet_jax.train.trainer import Trainer, means, memory_bytes

_SETTINGS_BYTES = 2**16  # In which processes compare theirs; a config takes about 3000.


def fit(config: ConfigDict, workdir: str | Path) -> dict:
    """Trains as `config` says and returns the result, which it also leaves in the run directory.

    Goes on from the newest checkpoint in `workdir`, if there is one, as if it had never stopped.
    Leaves a finished run alone.

    Raises:
      InputError: wrong config, missing data, or the folder of another run; before anything is
        compiled or written.
      RunError: the loss became infinite or NaN, or the memory does not suffice.
      Interrupted: the disk or another process of this run failed, or another run is using the
        directory. The same call resumes the run.
      Preempted: a signal to stop came, and a checkpoint of that very step is saved.
    """
    run = RunDirectory(workdir)
    check_config(config)
    run.check(config)
    if result := run.result():
        return result
    _check_processes(config, run.path)
    run.check_writable()
    with telling_of_failures(run), RunLock(run.path) as lock:
        run.check(config)  # Again, because another run may have been there until now.
        if result := run.result():
            return result
        with Preemption() as preemption, contextlib.closing(Trainer(config)) as trainer:
            result = _fit(trainer, run, lock, preemption)
            run.finish(result)
    return result


def _check_processes(config: ConfigDict, workdir: Path) -> None:
    """Raises InputError if the processes of this run were started with different settings."""
    if jax.process_count() == 1:
        return
    given = {"workdir": str(workdir.resolve()), **flatten(config)}
    given |= {f"version of {name}": v for name, v in versions("densenet_jax", "jax").items()}
    text = json.dumps(given, default=str).encode()
    if len(text) > _SETTINGS_BYTES:
        text = json.dumps({"config": hashlib.sha256(text).hexdigest()}).encode()
    padded = np.frombuffer(text.ljust(_SETTINGS_BYTES), np.uint8)
    first, *others = map(json.loads, map(bytes, multihost_utils.process_allgather(padded)))
    for process, other in enumerate(others, 1):
        if keys := differing(first, other):
            found = (f"{key} ({first.get(key)!r} and {other.get(key)!r})" for key in keys)
            raise InputError(
                f"process 0 and process {process} have different settings: {', '.join(found)}; "
                "give every process the same command and version"
            )


def _fit(trainer: Trainer, run: RunDirectory, lock: RunLock, preemption: Preemption) -> dict:
    config = trainer.config
    run.check_classes(trainer.data.classes)
    if config.init_from and not run.has_checkpoint():
        trainer.initialize(config.init_from)
    with Reporter(config.epochs * trainer.steps_per_epoch, config.batch_size) as reporter:
        reporter.say(_describe(trainer))
        trainer.compiled("train")
        reporter.say(f"compiled in {trainer.compile_seconds:.1f} s")
        run.start(config, trainer.description())
        with Checkpoints(run.checkpoints) as checkpoints:
            training = _Training(trainer, run, lock, checkpoints, reporter, preemption)
            lines, seconds = training.to_the_end()
    line = lines[-1] if config.report == "last_epoch" else best_epoch(lines)
    images = config.epochs * _examples(trainer)
    broken = any(key.endswith("broken_pictures") for line in lines for key in line)
    return {
        **{key: value for key, value in line.items() if key not in ("step", "epoch")},
        "reported_epoch": line["epoch"],
        "model": config.model.name,
        "data": config.data.name,
        "official_data": trainer.data.official and not broken,
        "epochs": config.epochs,
        "params": trainer.params,
        "seed": config.seed,
        "train_seconds": round(seconds["total"], 3),
        "images_per_second": round(images / seconds["training"], 1),
        "compile_seconds": round(trainer.compile_seconds, 3),
        "input_wait_seconds": round(seconds["input_wait"], 3),
        **_memory(trainer),
    }


def _examples(trainer: Trainer) -> int:
    """Images that an epoch trains on."""
    return min(len(trainer.data.train), trainer.steps_per_epoch * trainer.config.batch_size)


def _memory(trainer: Trainer) -> dict[str, int]:
    """Bytes of one device: a training step's temporaries; the peak, where the device tells it."""
    found = {"step_temp_bytes": memory_bytes(trainer.compiled("train"))["temp_bytes"]}
    if told := jax.local_devices()[0].memory_stats():
        found["peak_memory_bytes"] = told["peak_bytes_in_use"]
    return found


# Of training, of all, and those of training in which the devices waited for data.
_NO_SECONDS = {"training": 0.0, "total": 0.0, "input_wait": 0.0}


@dataclasses.dataclass
class _Progress:
    """What is saved beside the train state.

    Attributes:
      epoch: how many are complete.
      sums: over the steps of the next epoch.
      seconds: of all starts, by purpose.
      lines: of metrics.jsonl, one for each complete epoch.
    """

    epoch: int
    sums: Sums
    seconds: dict[str, float]
    lines: list[dict]

    def to_json(self) -> dict:
        sums = dataclasses.asdict(self.sums)
        numbers = {name: float(value) for name, value in jax.device_get(sums).items()}
        # Copies, because a checkpoint is written while training goes on.
        return {
            "epoch": self.epoch,
            "sums": numbers,
            "seconds": dict(self.seconds),
            "metrics": list(self.lines),
        }

    @classmethod
    def from_json(cls, found: dict, trainer: Trainer, run: RunDirectory) -> "_Progress":
        seconds = _NO_SECONDS | found["seconds"]
        # Early checkpoints have no metrics, so the file has to do.
        lines = found["metrics"] if "metrics" in found else run.metrics()[: found["epoch"]]
        if [line.get("epoch") for line in lines] != list(range(1, found["epoch"] + 1)):
            raise InputError(
                f"metrics.jsonl in {run.path} has not one line for each of the "
                f"{counted(found['epoch'], 'epoch')} of the checkpoint: restore that file"
            )
        return cls(found["epoch"], trainer.sums(**found["sums"]), seconds, lines)


@dataclasses.dataclass(frozen=True)
class _Training:
    """A start of a run, and what it works with."""

    trainer: Trainer
    run: RunDirectory
    lock: RunLock
    checkpoints: Checkpoints
    reporter: Reporter
    preemption: Preemption

    def to_the_end(self) -> tuple[list[dict], dict[str, float]]:
        """Trains. Returns the lines of metrics, and the seconds it took, over all starts."""
        trainer, run, config = self.trainer, self.run, self.trainer.config
        state, progress = self._beginning()
        step, seconds = int(state.step), progress.seconds
        run.restore_metrics(progress.lines)
        best = best_epoch(progress.lines)
        self.reporter.start(step)
        with event_log(run.path / "tensorboard", step) as log_event:
            while progress.epoch < config.epochs:
                last = progress.epoch + 1 == config.epochs
                started, compiling = time.monotonic(), trainer.compile_seconds
                waited = trainer.input_wait_seconds
                state, line = self._epoch(state, progress)
                waited = trainer.input_wait_seconds - waited
                # A dispatch of another number of steps is compiled when it first comes.
                compiled = trainer.compile_seconds - compiling
                trained = time.monotonic() - started - compiled
                seconds["training"] += trained
                seconds["input_wait"] += waited
                if line is None:
                    seconds["total"] += trained
                    self._stop(state, progress, best)
                if last or (progress.epoch + 1) % config.eval_every_epochs == 0:
                    line |= trainer.evaluate(state)
                    if last and config.data.ten_crops:
                        line |= trainer.evaluate(state, TEN)
                    self._check_evaluation(line)
                # The first evaluation compiles; that is told apart.
                compiling = trainer.compile_seconds - compiling
                seconds["total"] += time.monotonic() - started - compiling
                self.lock.check()
                run.append_metrics(line)
                progress.lines.append(line)
                log_event(line)
                self.reporter.epoch(line, config.epochs, waited / trained)
                progress.epoch, progress.sums = progress.epoch + 1, trainer.sums()
                best = best_epoch([best or line, line])
                due = progress.epoch % config.checkpoint_every_epochs == 0
                if last or due or best is line:
                    self._save(state, progress, best)
        return progress.lines, seconds

    def _beginning(self) -> tuple[TrainState, _Progress]:
        """Where the newest checkpoint is, if there is one."""
        state = self.trainer.initial_state
        if not self.checkpoints.steps():
            return state, _Progress(0, self.trainer.sums(), dict(_NO_SECONDS), [])
        state, found = self.checkpoints.restore(like=state)
        self.reporter.say(f"going on from step {int(state.step)} in {self.run.path}")
        return state, _Progress.from_json(found, self.trainer, self.run)

    def _epoch(self, state: TrainState, progress: _Progress) -> tuple[TrainState, dict | None]:
        """Trains to the end of the epoch; returns the new state and the epoch's line of metrics.

        If the run is to stop before, there is no line, and `progress` tells how far it came.
        """
        trainer = self.trainer
        first_step = progress.epoch * trainer.steps_per_epoch
        step = int(state.step)
        for batches in trainer.epoch_batches(progress.epoch, first=step - first_step):
            if self.preemption.noticed(step):
                return state, None
            previous = progress.sums
            state, progress.sums = trainer.train(state, previous, batches, progress.epoch)
            # Waiting for the dispatch before this one leaves the devices one to work on.
            self._check_loss(previous, first_step)
            step += batches.steps
            self.reporter.advance(batches.steps)
        self._check_loss(progress.sums, first_step)
        rate = float(f"{trainer.learning_rate(step - 1):.6g}")
        line = {
            "step": step,
            "epoch": progress.epoch + 1,
            **means(progress.sums, "train"),
            "learning_rate": rate,
        }
        if broken := _examples(trainer) - int(progress.sums.examples):
            line["broken_pictures"] = broken
        return state, line

    def _stop(self, state: TrainState, progress: _Progress, best: dict | None) -> NoReturn:
        step = int(state.step)
        self._check_loss(progress.sums, progress.epoch * self.trainer.steps_per_epoch)
        if step not in self.checkpoints.steps():
            self._save(state, progress, best)
        self.checkpoints.wait()
        raise Preempted(
            f"received {self.preemption.signal}; saved step {step}. Run the same command again to "
            "resume"
        )

    def _save(self, state: TrainState, progress: _Progress, best: dict | None) -> None:
        for leaf in jax.tree.leaves(state):
            if not np.isfinite(np.asarray(leaf)).all():
                self._fail("a parameter or a statistic is infinite or no number", int(state.step))
        self.lock.check()
        self.checkpoints.save(state, progress.to_json(), best=best and best["step"])

    def _check_loss(self, sums: Sums, first_step: int) -> None:
        """Waits for `sums`, which are those of an epoch that began after `first_step` steps."""
        if not math.isfinite(loss := float(sums.loss)):
            self._fail(f"the training loss is {loss}", first_step + int(sums.finite_batches) + 1)

    def _check_evaluation(self, line: dict) -> None:
        for name, value in line.items():
            if not math.isfinite(value):
                self._fail(f"{name} is {value}", line["step"])

    def _fail(self, what: str, step: int) -> NoReturn:
        self.checkpoints.wait()
        saved = self.checkpoints.steps()
        kept = f"the checkpoint of step {saved[0]} is kept" if saved else "nothing was saved yet"
        raise RunError(
            f"{what} in step {step} (epoch {math.ceil(step / self.trainer.steps_per_epoch)}, "
            f"learning rate {self.trainer.learning_rate(step - 1):g}); {kept}. "
            "Try a lower learning_rate, in another folder."
        )


def _describe(trainer: Trainer) -> str:
    config, data = trainer.config, trainer.data
    devices = jax.devices()
    return (
        f"{config.model.name}: {counted(trainer.params, 'parameter')}; {config.data.name}: "
        f"{counted(len(data.train), 'training image')}, {counted(len(data.test), 'test image')}; "
        f"{counted(config.epochs, 'epoch')} of {counted(trainer.steps_per_epoch, 'step')} "
        f"on {len(devices)} x {devices[0].device_kind}"
    )
