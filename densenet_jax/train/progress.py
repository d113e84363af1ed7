"""How far a run has come, and where its time went."""

import collections
import contextlib
import dataclasses
import time
from collections.abc import Iterator

import jax

from densenet_jax.errors import InputError, counted
from densenet_jax.train.record import RunDirectory, best_epoch
from densenet_jax.train.step import Totals


class Clock:
    """Seconds by purpose. A measurement that starts inside another one interrupts it.

    Attributes:
      seconds: seconds by purpose; those of a running measurement follow at its end, or `update`.
    """

    def __init__(self) -> None:
        self.seconds: collections.defaultdict[str, float] = collections.defaultdict(float)
        self._purposes: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def measure(self, purpose: str) -> Iterator[None]:
        """Adds the seconds of the `with` block to `purpose`."""
        self.update()
        self._purposes.append(purpose)
        try:
            yield
        finally:
            self.update()
            self._purposes.pop()

    def update(self) -> None:
        """Adds the time of the running measurement up to now."""
        now = time.monotonic()
        if self._purposes:
            self.seconds[self._purposes[-1]] += now - self._since
        self._since = now


@dataclasses.dataclass
class Progress:
    """The position of a run and its results so far; saved beside the train state.

    Attributes:
      step: number of completed training steps.
      epoch: number of complete epochs.
      totals: totals over the completed steps of the next epoch, on the devices.
      lines: lines of metrics.jsonl, one for each complete epoch.
      best: the line of the best epoch; None before the first evaluation.
      steps_per_epoch: number of training steps in an epoch.
    """

    step: int
    epoch: int
    totals: Totals
    lines: list[dict]
    best: dict | None
    steps_per_epoch: int

    @property
    def steps_of_epoch(self) -> int:
        """Number of completed steps in the next epoch."""
        return self.step - self.epoch * self.steps_per_epoch

    def end_epoch(self, line: dict, totals: Totals) -> None:
        """Adds the line of a complete epoch. `totals` are those of the next epoch: zeros."""
        self.lines.append(line)
        self.epoch, self.totals = self.epoch + 1, totals
        self.best = best_epoch([line] if self.best is None else [self.best, line])

    def has_stalled(self, patience: int, line: dict | None = None) -> bool:
        """Returns whether the validation error has had no new minimum for `patience` epochs.

        True only at an evaluation, so that a resumed run decides the same.

        Args:
          patience: number of epochs; 0: never.
          line: the line of the newest epoch; None: the last of `lines`.
        """
        line = line or (self.lines[-1] if self.lines else {})
        if not patience or "validation_error" not in line:
            return False
        best = best_epoch([line] if self.best is None else [self.best, line])
        assert best is not None
        return line["epoch"] - best["epoch"] >= patience

    def to_json(self, clock: Clock) -> dict:
        """Returns a copy for a checkpoint, which is written while training continues."""
        totals = jax.device_get(dataclasses.asdict(self.totals))
        training, evaluation, waiting = (
            clock.seconds[purpose] for purpose in ("training", "evaluation", "input_wait")
        )
        return {
            "epoch": self.epoch,
            "sums": {name: float(value) for name, value in totals.items()},
            "seconds": {
                "training": training,
                "total": training + evaluation,
                "input_wait": waiting,
            },
            "metrics": list(self.lines),
        }


def restore_clock(clock: Clock, saved: dict) -> None:
    """Sets `clock` to the seconds that `Progress.to_json` saved."""
    seconds = {"training": 0.0, "total": 0.0, "input_wait": 0.0} | saved.get("seconds", {})
    clock.seconds["training"] = seconds["training"]
    clock.seconds["evaluation"] = seconds["total"] - seconds["training"]
    clock.seconds["input_wait"] = seconds["input_wait"]


def saved_lines(saved: dict, run: RunDirectory) -> list[dict]:
    """Returns the lines of metrics of a checkpoint. Raises InputError if lines are missing."""
    # Early checkpoints have no metrics, so that only the file has them.
    lines = saved["metrics"] if "metrics" in saved else run.metrics()[: saved["epoch"]]
    if [line.get("epoch") for line in lines] != list(range(1, saved["epoch"] + 1)):
        raise InputError(
            f"metrics.jsonl in {run.path} has not one line for each of the "
            f"{counted(saved['epoch'], 'epoch')} of the checkpoint: restore that file"
        )
    return lines


def means(totals: Totals, prefix: str) -> dict[str, float]:
    """Returns `{prefix}_loss` and `{prefix}_error`, in percent. Waits for the devices.

    If examples have several labels, both are means over the known labels.

    Raises InputError if there are no examples, because no picture could be read.
    """
    totals = jax.device_get(totals)
    if not totals.examples:
        raise InputError(f"none of the {prefix} pictures can be read: replace them")
    if not totals.labels:
        raise InputError(f"none of the {prefix} pictures has a known label: add labels")
    loss = float(totals.loss / totals.divisor) if totals.divisor else 0.0
    return {f"{prefix}_loss": loss, f"{prefix}_error": float(100 * totals.errors / totals.labels)}


def of_pictures(totals: Totals, prefix: str, pictures: int, has_top5: bool) -> dict[str, float]:
    """Returns `{prefix}_top5_error`, in percent, and `{prefix}_broken_pictures` if there are any.

    Args:
      pictures: number of pictures, of which `totals` cover those that can be read.
      has_top5: whether there is a top-5 error.
    """
    errors, examples = map(float, jax.device_get((totals.top5_errors, totals.examples)))
    values = {f"{prefix}_top5_error": 100 * errors / examples} if has_top5 else {}
    if broken := pictures - int(examples):
        values[f"{prefix}_broken_pictures"] = broken
    return values
