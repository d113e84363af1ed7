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
    terminal sends SIGHUP, unless `nohup` started the command.
    """
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return {signal.SIGTERM, signal.SIGINT} | (set() if ignored else {signal.SIGHUP})


class StopRequested(Exception):
    """A signal asked the run to stop. `signal` is its name."""

    def __init__(self, signal: str):
        super().__init__(signal)
        self.signal = signal


class Preemption:
    """A listener for signals that ask a run to stop. A context manager.

    The first signal asks; a later Ctrl-C ends the process at once. A single process handles all
    signals itself. Several processes leave SIGTERM to JAX, which lets all of them stop after the
    same step, and turn the other signals into SIGTERM.
    """

    def __init__(self) -> None:
        self._signal = "SIGTERM"
        self._is_signalled = False
        self._alone = jax.process_count() == 1
        # Python handles signals in its main thread only.
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
        if self._is_signalled and number == signal.SIGINT:
            _print("interrupted: ended at once; complete checkpoints are kept\n")
            os._exit(128 + signal.SIGINT)
        if not self._is_signalled:
            self._is_signalled, self._signal = True, signal.Signals(number).name
            if number == signal.SIGINT:
                _print("interrupted: saving after this step; press Ctrl-C again to end at once\n")
            if not self._alone:
                os.kill(os.getpid(), signal.SIGTERM)

    def check(self, step: int) -> None:
        """Raises StopRequested if the run is to stop after `step`.

        All processes must ask after each step; all of them get the same answer.
        """
        if self._alone:
            is_due = self._is_signalled
        else:
            is_due = multihost_utils.reached_preemption_sync_point(step)
        if is_due:
            raise StopRequested(self._signal)


def _print(text: str) -> None:
    # The signal may come while Python writes to a buffered stream, which cannot be entered twice.
    with contextlib.suppress(OSError):
        os.write(2, text.encode())  # Standard error.
