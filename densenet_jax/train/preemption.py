"""Notices SIGTERM, by which schedulers say that a machine will be taken away soon."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Whether this run was asked to stop. A context manager.

    One process listens for the signal itself. Several leave that to JAX, which lets them all stop
    after the same step.
    """

    def __init__(self):
        self._signalled = False
        # Python takes signals in its main thread only.
        main = threading.current_thread() is threading.main_thread()
        self._listens = main and jax.process_count() == 1

    def __enter__(self) -> "Preemption":
        if self._listens:
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *exception) -> None:
        if self._listens:
            signal.signal(signal.SIGTERM, self._previous)

    def _note(self, *_) -> None:
        self._signalled = True

    def noticed(self, step: int) -> bool:
        """Whether to stop after `step`. All processes ask for each step, and get one answer."""
        if jax.process_count() == 1:
            return self._signalled
        return multihost_utils.reached_preemption_sync_point(step)
