"""Restarts a command that its machine interrupted."""

import ctypes
import math
import os
import signal
import subprocess
import sys
import time

from densenet_jax.errors import INTERRUPTED_STATUS
from densenet_jax.train.preemption import stop_signals

_PAUSE_SECONDS = 1
_POLL_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1  # From <sys/prctl.h>.


def supervise(command: list[str], restarts: int, stop_timeout: float = math.inf) -> int:
    """Runs `command` until it ends for good; returns its status, 128 + N after signal N.

    Restarts `command`, at most `restarts` times, if it ends with INTERRUPTED_STATUS or a signal
    kills it. Forwards SIGTERM, SIGINT and SIGHUP to `command`, and does not restart it afterwards.

    Args:
      stop_timeout: seconds after which a command that SIGSTOP has stopped is killed.
    """
    child: subprocess.Popen | None = None
    received: list[int] = []

    def forward(number: int, _) -> None:
        received.append(number)
        if child:
            child.send_signal(number)

    for number in stop_signals():
        signal.signal(number, forward)
    for restart in range(1, restarts + 2):
        child = _start(command)
        if received:  # While the child started.
            child.send_signal(received[-1])
        status = _wait(child, stop_timeout)
        is_interrupted = status < 0 or status == INTERRUPTED_STATUS
        if received or not is_interrupted:
            break
        killer = status < 0 and signal.Signals(-status).name
        end = f"was killed by {killer}" if killer else f"ended with status {status}"
        if restart > restarts:
            _report(f"no restart is left of {restarts}: the run {end}")
            break
        _report(f"restart {restart} of {restarts} in {_PAUSE_SECONDS} s: the run {end}")
        time.sleep(_PAUSE_SECONDS)
        if received:
            status = -received[-1]
            break
    return status if status >= 0 else 128 - status


def _start(command: list[str]) -> subprocess.Popen:
    libc = ctypes.CDLL(None)
    return subprocess.Popen(
        command,
        # A child that outlived this process would keep the run directory locked.
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        # Ctrl-C must reach the child only once: this process forwards it.
        process_group=0,
    )


def _wait(child: subprocess.Popen, stop_timeout: float) -> int:
    stopped = 0.0
    while True:
        try:
            return child.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            # WNOWAIT leaves the child to Popen.
            flags = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
            stopped = stopped + _POLL_SECONDS if os.waitid(os.P_PID, child.pid, flags) else 0.0
            if stopped > stop_timeout:
                child.kill()


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
