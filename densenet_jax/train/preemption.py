"""Notices the signals that ask a run to stop: SIGTERM, SIGHUP and SIGINT."""

import contextlib
import itertools
import math
import os
import signal
import threading

import jax

from densenet_jax import jax_private

_POLL_SECONDS = 0.5
_TIMEOUT_MS = 3_600_000  # A process that is lost ends the run earlier.


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

    The first signal asks; a later Ctrl-C ends the process at once. If one process receives a
    signal, all processes of the run stop after the same step.
    """

    def __init__(self) -> None:
        self._signal = ""
        self._agreement = _Agreement() if jax.process_count() > 1 else None
        # Python handles signals in its main thread only.
        is_main = threading.current_thread() is threading.main_thread()
        self._listened = stop_signals() if is_main else set()

    def __enter__(self) -> "Preemption":
        self._previous = {number: signal.signal(number, self._note) for number in self._listened}
        return self

    def __exit__(self, kind: type | None, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._agreement:
            self._agreement.close(is_complete=kind is None)

    def _note(self, number: int, _) -> None:
        if self._signal and number == signal.SIGINT:
            _print("interrupted: ended at once; complete checkpoints are kept\n")
            os._exit(128 + signal.SIGINT)
        if not self._signal:
            self._signal = signal.Signals(number).name
            if number == signal.SIGINT:
                _print("interrupted: saving after this step; press Ctrl-C again to end at once\n")
            if self._agreement:
                self._agreement.signal = self._signal

    def check(self, step: int) -> None:
        """Raises StopRequested if the run is to stop after `step`.

        All processes must ask after the same steps; all of them get the same answer.
        """
        name = self._agreement.check(step) if self._agreement else self._signal
        if name:
            raise StopRequested(name)


class _Agreement:
    """A thread by which the processes of a run agree on the step after which they stop.

    JAX's `reached_preemption_sync_point` serves the same purpose. But it holds the lock of Python
    while it waits for other processes, and Python threads may carry their messages: see
    launch/peers.py.

    Attributes:
      signal: the signal that this process received, or an empty string.
    """

    _names = map("densenet_jax/stop/{}".format, itertools.count())  # One for each call of `fit`.

    def __init__(self) -> None:
        self.signal = ""
        self._client, self._name = jax_private.coordination_client(), next(self._names)
        # Held while the processes agree, so that none of them passes the step.
        self._lock = threading.Lock()
        self._step, self._last_step, self._agreed_signal = 0, math.inf, ""
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="preemption", daemon=True)
        self._thread.start()

    def check(self, step: int) -> str:
        """Returns the name of the signal if all processes stop after `step`."""
        with self._lock:
            self._step = step
            return self._agreed_signal if step >= self._last_step else ""

    def close(self, is_complete: bool) -> None:
        """Ends the thread. After a complete run, answers processes that have not made all steps."""
        self._is_closed.set()
        if is_complete:
            self._thread.join()
            if not self._agreed_signal:
                self._tell_step()

    def _watch(self) -> None:
        while not self._is_closed.wait(_POLL_SECONDS):
            if self.signal:
                self._client.key_value_set(
                    f"{self._name}/signal/{jax.process_index()}", self.signal
                )
            if signals := self._client.key_value_dir_get(f"{self._name}/signal"):
                with self._lock:
                    self._tell_step()
                    self._last_step = max(map(self._step_of, range(jax.process_count()))) + 1
                    self._agreed_signal = signals[0][1]
                break

    def _tell_step(self) -> None:
        self._client.key_value_set(f"{self._name}/step/{jax.process_index()}", str(self._step))

    def _step_of(self, process: int) -> int:
        return int(self._client.blocking_key_value_get(f"{self._name}/step/{process}", _TIMEOUT_MS))


def _print(text: str) -> None:
    # The signal may come while Python writes to a buffered stream, which cannot be entered twice.
    with contextlib.suppress(OSError):
        os.write(2, text.encode())  # Standard error.
