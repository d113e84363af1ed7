"""Runs each contestant in a separate process and collects the measurements."""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

from densenet_jax.errors import InputError, RunError
from launch.benchmark.workload import Workload
from launch.paths import ROOT

_COMMAND = (sys.executable, "-m", "launch.benchmark.worker")
# A program loaded from a cache would have no compile time.
_ENVIRONMENT = {
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
}
_CLOSE_TIMEOUT_SECONDS = 10


def platform() -> str:
    """Returns the platform on which JAX runs: "cpu", "gpu" or "tpu".

    Asks a short-lived process, because JAX keeps some of a GPU's memory until its process ends.

    Raises InputError if JAX cannot use any device.
    """
    done = subprocess.run([*_COMMAND, "platform"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        error = InputError if done.returncode == 2 else RunError
        raise error(_last_line(done.stderr))
    return done.stdout.split()[-1]


def measure(
    names: list[str], workload: Workload, rounds: int, time_limit: float
) -> Iterator[list[dict]]:
    """Yields all results so far, whenever there are new ones.

    On CPU the contestants alternate, so that other load on the machine slows all of them alike. New
    results come after each round. On an accelerator each contestant runs all its rounds alone,
    because processes that share a device share its memory and its time. New results come after each
    contestant.

    Args:
      names: names of the contestants; the first is "ours".
      rounds: number of rounds for each contestant.
      time_limit: seconds that the start of a contestant may take, and each of its rounds.

    Raises InputError if our network cannot train on the workload.
    """
    run = _alternate if workload.platform == "cpu" else _run_alone
    for contestants in run(names, workload, rounds, time_limit):
        yield _with_ratios([contestant.report() for contestant in contestants])


def _alternate(
    names: list[str], workload: Workload, rounds: int, time_limit: float
) -> Iterator[list["Contestant"]]:
    """Yields all contestants after each round."""
    with contextlib.ExitStack() as stack:
        contestants = [stack.enter_context(_started(name, workload, time_limit)) for name in names]
        for i in range(1, rounds + 1):
            for contestant in contestants:
                contestant.run_round()
            _log_round(i, rounds, contestants)
            yield contestants


def _run_alone(
    names: list[str], workload: Workload, rounds: int, time_limit: float
) -> Iterator[list["Contestant"]]:
    """Yields the finished contestants, each time one more has finished."""
    finished = []
    for name in names:
        with _started(name, workload, time_limit) as contestant:
            for i in range(1, rounds + 1):
                contestant.run_round()
                if contestant.error is not None:
                    break
                _log_round(i, rounds, [contestant])
        finished.append(contestant)
        yield finished


@contextlib.contextmanager
def _started(name: str, workload: Workload, time_limit: float) -> Iterator["Contestant"]:
    """Yields a contestant that is ready or has failed; then ends its process."""
    with (
        tempfile.TemporaryFile("w+") as stderr,
        contextlib.closing(Contestant(name, workload, stderr, time_limit)) as contestant,
    ):
        _log(f"{name}, L={workload.layers}: {contestant.error or 'ready'}")
        yield contestant


class Contestant:
    """A process that trains a network.

    Attributes:
      error: why the process has failed; None if it has not.
      seconds: the mean time of a step in each completed round.
    """

    def __init__(self, name: str, workload: Workload, stderr: IO[str], time_limit: float):
        self.name, self.workload = name, workload
        self.error: str | None = None
        self.seconds: list[float] = []
        self._stderr, self._time_limit = stderr, time_limit
        self._process = subprocess.Popen(
            [*_COMMAND, name, json.dumps(dataclasses.asdict(workload))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=ROOT,
            env=os.environ | _ENVIRONMENT,
        )
        try:
            self._facts = self._answer(f"not ready after {time_limit:g} s: raise --time_limit")
            if name == "ours" and self._process.returncode == 2:
                raise InputError(self.error)
        except BaseException:
            self.close()
            raise

    def run_round(self) -> None:
        """Trains for one round; does nothing after an error."""
        if self.error is None:
            with contextlib.suppress(BrokenPipeError):  # `_answer` reports why the process ended.
                print(self.workload.steps_per_round, file=self._process.stdin, flush=True)
            answer = self._answer(
                f"a round took longer than {self._time_limit:g} s: raise --time_limit or lower "
                "--steps"
            )
            if answer:
                self.seconds.append(answer["step_seconds"])

    def report(self) -> dict:
        """Returns the result of this contestant as in benchmark.json."""
        described = {"contestant": self.name, "depth": self.workload.layers}
        if self.error is not None:
            return described | {"error": self.error}
        median = statistics.median(self.seconds)
        times = {
            "step_seconds": median,
            "step_milliseconds": 1000 * median,
            "images_per_second": self.workload.batch_size / median,
            "round_seconds": self.seconds,
        }
        return described | times | self._facts

    def close(self) -> None:
        """Ends the process."""
        try:
            # Closes the input of the process, which then ends.
            self._process.communicate(timeout=_CLOSE_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _answer(self, too_late: str) -> dict:
        """Returns the next answer of the process; an empty one if the process has ended.

        Kills the process after the time limit and sets `error` to `too_late`.
        """
        assert self._process.stdout is not None

        def kill() -> None:
            self.error = too_late
            self._process.kill()

        alarm = threading.Timer(self._time_limit, kill)
        alarm.start()
        try:
            line = self._process.stdout.readline()
        finally:
            alarm.cancel()
            alarm.join()
        if line and self.error is None:
            return json.loads(line)
        self._process.wait()
        if self.error is None:
            self._stderr.seek(0)
            code = self._process.returncode
            killed = f"killed by signal {-code}{', as if out of memory' if code == -9 else ''}"
            self.error = killed if code < 0 else _last_line(self._stderr.read())
        return {}


def _last_line(stderr: str) -> str:
    return stderr.strip().split("\n")[-1].removeprefix("error: ")


def _with_ratios(results: list[dict]) -> list[dict]:
    """Adds the ratios of time and memory to those of the first result, which is ours."""
    ours = results[0]
    for result in results:
        for kind, key in (("step_ratio", "step_seconds"), ("memory_ratio", "memory_bytes")):
            if result.get(key) and ours.get(key):
                result[kind] = result[key] / ours[key]
    return results


def _log_round(i: int, rounds: int, contestants: list[Contestant]) -> None:
    times = (f"{c.name} {c.seconds[-1]:.4g} s per step" for c in contestants if c.error is None)
    _log(f"round {i}/{rounds}: {', '.join(times)}")


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
