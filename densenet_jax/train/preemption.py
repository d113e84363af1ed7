"""Notices the signals that ask a run to stop: SIGTERM, SIGHUP and SIGINT."""

import contextlib
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils


def stop_signals() -> set[signal.Signals]:
    """Returns the signals that ask a command to stop.

    Schedulers send SIGTERM before they take a machine away, Ctrl-C sends SIGINT, and a closed
    terminal sends SIGHUP, which `nohup` has a command ignore.
    """
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return {signal.SIGTERM, signal.SIGINT} | (set() if ignored else {signal.SIGHUP})


class Preemption:
    """Whether this run was asked to stop. A context manager.

    The first signal asks; a later Ctrl-C ends the process at once. One process listens itself.
    Several leave SIGTERM to JAX, which lets them all stop after the same step, and turn the other
    signals into it.

    Attributes:
      signal: the name of the signal that came.
    """

    def __init__(self):
        self.signal = "SIGTERM"
        self._signalled = False
        self._alone = jax.process_count() == 1
        # Python takes signals in its main thread only.
        is_main = threading.current_thread() is threading.main_thread()
        listened = stop_signals() - (set() if self._alone else {signal.SIGTERM})
        self._listened = listened if is_main else set()

    def __enter__(self) -> "Preemption":
        self._previous = {number: signal.signal(number, self._note) for number in self._listened}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _) -> None:
        if self._signalled and number == signal.SIGINT:
            _say("interrupted: ended at once, and kept the checkpoints that were complete\n")
            os._exit(128 + signal.SIGINT)
        if not self._signalled:
            self._signalled, self.signal = True, signal.Signals(number).name
            if number == signal.SIGINT:
                _say("interrupted: saving after this step; press Ctrl-C again to end at once\n")
            if not self._alone:
                os.kill(os.getpid(), signal.SIGTERM)

    def noticed(self, step: int) -> bool:
        """Whether to stop after `step`. All processes ask for each step, and get one answer."""
        if self._alone:
            return self._signalled
        return multihost_utils.reached_preemption_sync_point(step)


def _say(text: str) -> None:
    # The signal may come while Python writes to a buffered stream, which cannot be entered twice.
    with contextlib.suppress(OSError):
        os.write(2, text.encode())  # Standard error.
