"""Runs contestants, each in a process of its own, and collects their measurements."""

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
from pathlib import Path
from typing import IO

from densenet_jax.errors import InputError, RunError
from launch.benchmark.job import Job

_COMMAND = (sys.executable, "-m", "launch.benchmark.contestant")
_ROOT = Path(__file__).parents[2]
# A compilation that is loaded from a cache has no compile time.
_ENVIRONMENT = {
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
}
_CLOSE_TIMEOUT_SECONDS = 10


def platform() -> str:
    """Returns the platform on which JAX runs: "cpu", "gpu" or "tpu".

    A short process finds out, because this one would keep some of a GPU's memory until its end.

    Raises InputError if JAX cannot use any device.
    """
    done = subprocess.run([*_COMMAND, "platform"], cwd=_ROOT, capture_output=True, text=True)
    if done.returncode:
        error = InputError if done.returncode == 2 else RunError
        raise error(_last_words(done.stderr))
    return done.stdout.split()[-1]


def measure(names: list[str], job: Job, rounds: int, time_limit: float) -> Iterator[list[dict]]:
    """Yields the results so far of the contestants, whenever there are new ones.

    On CPU the contestants take turns, so that other load on the machine slows all of them alike;
    results come after each round. On an accelerator each contestant does all its rounds alone,
    because processes that share a device share its memory and its time; results come after each
    contestant.

    Args:
      names: of the contestants; the first is "ours".
      rounds: turns of each.
      time_limit: seconds in which a contestant must get ready, and in which it must finish a turn.

    Raises InputError if it is not a job for our own network.
    """
    run = _take_turns if job.platform == "cpu" else _run_alone
    for contestants in run(names, job, rounds, time_limit):
        yield _with_ratios([contestant.report() for contestant in contestants])


def _take_turns(names: list[str], job: Job, rounds: int, time_limit: float):
    """Yields all contestants after each round."""
    with contextlib.ExitStack() as stack:
        contestants = [stack.enter_context(_started(name, job, time_limit)) for name in names]
        for i in range(1, rounds + 1):
            for contestant in contestants:
                contestant.take_turn()
            _say_round(i, rounds, contestants)
            yield contestants


def _run_alone(names: list[str], job: Job, rounds: int, time_limit: float):
    """Yields the contestants that have ended, after each of them."""
    ended = []
    for name in names:
        with _started(name, job, time_limit) as contestant:
            for i in range(1, rounds + 1):
                contestant.take_turn()
                if contestant.error is not None:
                    break
                _say_round(i, rounds, [contestant])
        ended.append(contestant)
        yield ended


@contextlib.contextmanager
def _started(name: str, job: Job, time_limit: float):
    """Gives a contestant that is ready or has failed, and ends its process."""
    with (
        tempfile.TemporaryFile("w+") as stderr,
        contextlib.closing(Contestant(name, job, stderr, time_limit)) as contestant,
    ):
        _say(f"{name}, L={job.layers}: {contestant.error or 'ready'}")
        yield contestant


class Contestant:
    """A process that trains a network, once it is compiled and warm. `error` says why it ended."""

    def __init__(self, name: str, job: Job, stderr: IO[str], time_limit: float):
        self.name, self.job = name, job
        self.error = None
        self.seconds = []
        self._stderr, self._time_limit = stderr, time_limit
        self._process = subprocess.Popen(
            [*_COMMAND, name, json.dumps(dataclasses.asdict(job))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=_ROOT,
            env=os.environ | _ENVIRONMENT,
        )
        try:
            self._facts = self._answer(f"not ready after {time_limit:g} s: raise --time_limit")
            if name == "ours" and self._process.returncode == 2:
                raise InputError(self.error)
        except BaseException:
            self.close()
            raise

    def take_turn(self) -> None:
        if self.error is None:
            with contextlib.suppress(BrokenPipeError):  # The answer says why.
                print(self.job.turn_steps, file=self._process.stdin, flush=True)
            answer = self._answer(
                f"a turn took longer than {self._time_limit:g} s: raise --time_limit or lower "
                "--steps"
            )
            if answer:
                self.seconds.append(answer["step_seconds"])

    def report(self) -> dict:
        described = {"contestant": self.name, "depth": self.job.layers}
        if self.error is not None:
            return described | {"error": self.error}
        median = statistics.median(self.seconds)
        times = {
            "step_seconds": median,
            "step_milliseconds": 1000 * median,
            "images_per_second": self.job.batch_size / median,
            "round_seconds": self.seconds,
        }
        return described | times | self._facts

    def close(self) -> None:
        try:
            # The process ends with its input.
            self._process.communicate(timeout=_CLOSE_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _answer(self, too_late: str) -> dict:
        """Returns the next answer of the process; an empty one if the process ended.

        Ends the process with the error `too_late` after the time limit.
        """

        def end() -> None:
            self.error = too_late
            self._process.kill()

        alarm = threading.Timer(self._time_limit, end)
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
            killed = f"killed by signal {-code}{', as when memory is full' if code == -9 else ''}"
            self.error = killed if code < 0 else _last_words(self._stderr.read())
        return {}


def _last_words(stderr: str) -> str:
    return stderr.strip().split("\n")[-1].removeprefix("error: ")


def _with_ratios(results: list[dict]) -> list[dict]:
    """Returns `results` with times and memory as multiples of those of the first, which is ours."""
    ours = results[0]
    for result in results:
        for kind, key in (("step_ratio", "step_seconds"), ("memory_ratio", "memory_bytes")):
            if result.get(key) and ours.get(key):
                result[kind] = result[key] / ours[key]
    return results


def _say_round(i: int, rounds: int, contestants: list[Contestant]) -> None:
    times = (f"{c.name} {c.seconds[-1]:.4g} s a step" for c in contestants if c.error is None)
    _say(f"round {i}/{rounds}: {', '.join(times)}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
