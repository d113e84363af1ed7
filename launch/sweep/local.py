"""Runs points side by side on this machine, one process each."""

import argparse
import contextlib
import fcntl
import itertools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import BinaryIO

from densenet_jax.errors import Preempted, counted
from densenet_jax.train.preemption import stop_signals
from launch.paths import ROOT
from launch.sweep.points import Point

_POLL_SECONDS = 0.2


def devices() -> list[dict[str, str]]:
    """Returns the environment variables of each process that can run at the same time.

    There is a process for each GPU, or for each CPU core if there are no GPUs.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        # CUDA ignores all devices after the first invalid one, such as -1.
        named = [gpu.strip() for gpu in visible.split(",")]
        gpus = list(itertools.takewhile(lambda gpu: gpu not in ("", "-1"), named))
    elif shutil.which("nvidia-smi"):
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
        # Without a driver nvidia-smi prints an explanation instead.
        lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
        gpus = [str(i) for i, _ in enumerate(lines)]
    else:
        gpus = []
    if gpus and os.environ.get("JAX_PLATFORMS", "").partition(",")[0] != "cpu":
        return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
    return [{}] * len(os.sched_getaffinity(0))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds no flags, because this engine has no settings."""


def render(points: list[Point], args: argparse.Namespace) -> str:
    """Renders the command of each point."""
    return "\n".join(shlex.join([sys.executable, *point.arguments]) for point in points)


def launch(points: list[Point], args: argparse.Namespace, log: Callable[[str], None]) -> None:
    """Runs `points`, up to `args.parallel` at a time (0: one for each GPU or core).

    A failed point does not stop other points. After SIGTERM, SIGHUP or Ctrl-C, raises Preempted
    once all points have saved and stopped. A second Ctrl-C raises KeyboardInterrupt at once.
    """
    parallel = args.parallel
    slots = devices()
    slots = [slots[i % len(slots)] for i in range(parallel)] if parallel else slots
    # Cores do not depend on the number of points, because the number of cores changes the order of
    # XLA's sums, and so the last bits of results.
    cores = _shares(sorted(os.sched_getaffinity(0)), len(slots))
    waiting = list(points)
    running: dict[int, tuple[Point, subprocess.Popen]] = {}
    received: list[int] = []

    def note(number: int, _) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, note) for number in stop_signals()}
    try:
        while (waiting or running) and not received:
            free = [i for i in range(len(slots)) if i not in running]
            for i in free[: len(waiting)]:
                point = waiting.pop(0)
                if process := _start(point, slots[i], cores[i]):
                    running[i] = point, process
                    log(f"started {point.name}")
                else:
                    log(f"{point.name} is already running in another process")
            time.sleep(_POLL_SECONDS)
            for i, (point, process) in list(running.items()):
                if process.poll() is not None:
                    del running[i]
                    _note_exit(point, process.returncode)
                    log(f"{point.state()} {point.name}")
    finally:
        for _, process in running.values():
            process.send_signal(signal.SIGTERM)
        for point, process in running.values():
            _note_exit(point, process.wait())
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        raise Preempted(
            f"received {signal.Signals(received[0]).name}; stopped "
            f"{counted(len(running), 'running point')}. Run the same command again to resume"
        )


def _start(point: Point, environment: dict, cores: list[int]) -> subprocess.Popen | None:
    """Starts the process of `point`; returns None if another process runs the point."""
    point.file("lock").parent.mkdir(parents=True, exist_ok=True)
    with point.file("lock").open("wb") as lock:
        # The new process inherits the lock and holds it until its end, even if this process dies.
        if not _locked(lock):
            return None
        point.note_started()
        with point.file("log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *point.arguments],
                cwd=ROOT,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )
    with contextlib.suppress(ProcessLookupError):
        os.sched_setaffinity(process.pid, cores)
    return process


def _locked(lock: BinaryIO) -> bool:
    """Takes the lock; returns False if another process runs the point."""
    for _ in range(5):  # A process that only tests the lock holds it for a moment.
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _note_exit(point: Point, status: int) -> None:
    point.file("exit").write_text(f"{status}\n")


def _shares(cores: list[int], count: int) -> list[list[int]]:
    """Divides `cores` among `count` processes, which share cores if there are too few."""
    return [cores[i::count] or [cores[i % len(cores)]] for i in range(count)]
