"""Reports a run while it trains: with a bar on a terminal, with plain lines elsewhere."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import TextIO, cast

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from densenet_jax.errors import counted
from densenet_jax.train.progress import Clock

SILENCE_SECONDS = 60  # Without a terminal, a line is printed after so long a silence.


class Reporter:
    """Prints to standard output, in the first process only. A context manager.

    All rates are images per second of training, without evaluations and checkpoints.
    """

    def __init__(self, steps: int, batch_size: int):
        self._console = Console(
            file=cast(TextIO, LossyOutput(sys.stdout)),
            highlight=False,
            soft_wrap=True,
            quiet=jax.process_index() > 0,
        )
        self._steps, self._batch_size = steps, batch_size
        self._bar = Progress(
            TextColumn("step"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:,.0f} images/s"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *exception) -> None:
        self._bar.stop()

    def print(self, text: str) -> None:
        self._console.print(text, markup=False)
        self._last_printed = time.monotonic()

    def start(self, step: int, clock: Clock) -> None:
        """Shows the bar, at `step`. `clock` measures "training" and, inside it, "input_wait"."""
        self._task = self._bar.add_task("", total=self._steps, completed=step, rate=0.0)
        self._bar.start()
        self._clock, self._started, self._first = clock, time.monotonic(), step
        self._begin_epoch(step)

    def advance(self, steps: int) -> None:
        self._step += steps
        self._bar.update(self._task, advance=steps, rate=self._rate())
        if self._bar.disable and time.monotonic() - self._last_printed > SILENCE_SECONDS:
            self.print(f"step {self._step}/{self._steps}  {self._rate():,.0f} images/s")

    def epoch(self, line: dict, epochs: int) -> None:
        """Prints an epoch's metrics, and its share of time in which the devices waited for data."""
        text = f"epoch {line['epoch']:>{len(str(epochs))}}/{epochs}  loss {line['train_loss']:.4f}"
        for split in ("validation", "test"):
            if f"{split}_error" in line:
                text += f"  {split} error {line[f'{split}_error']:.2f} %"
            if f"raw_{split}_error" in line:
                text += f" ({line[f'raw_{split}_error']:.2f} % before averaging)"
        text += f"  learning rate {line['learning_rate']:.3g}  {self._rate():,.0f} images/s"
        waited = self._seconds("input_wait") / self._seconds("training")
        if waited > 0.01:
            text += f"  {100 * waited:.0f} % of the time waiting for data"
        if "broken_pictures" in line:
            text += f"  {counted(line['broken_pictures'], 'broken picture')}"
        elapsed = time.monotonic() - self._started
        left = elapsed * (self._steps - self._step) / (self._step - self._first)
        self.print(f"{text}  {_duration(left)} left")
        self._begin_epoch(self._step)

    def _begin_epoch(self, step: int) -> None:
        self._step = self._epoch_first = step
        self._before = self._clock.seconds.copy()

    def _seconds(self, purpose: str) -> float:
        """Returns the seconds of `purpose` in this epoch."""
        self._clock.update()
        return self._clock.seconds[purpose] - self._before[purpose]

    def _rate(self) -> float:
        """Returns images per second of training in this epoch."""
        images = (self._step - self._epoch_first) * self._batch_size
        return images / self._seconds("training")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s"


class LossyOutput:
    """A text stream that a command can lose: after an error it warns once and drops all text.

    Training must not end because `| head` closed a pipe, or because a log file filled a disk.

    Attributes:
      error: the exception of the stream; None if all text was written.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.error: OSError | None = None

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Callable, *arguments) -> None:
        if self.error:
            return
        try:
            act(*arguments)
        except OSError as error:
            self.error = error
            logging.getLogger(__name__).warning(
                "cannot write to standard output (%s): the command continues without it",
                error.strerror,
            )
            with contextlib.suppress(OSError):  # Python would fail to flush the rest at its end.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
