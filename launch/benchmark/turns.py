"""Contestants take turns, each in a process of its own."""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from densenet_jax.errors import InputError
from launch.benchmark.job import Job

# Two processes that each take most of a GPU's memory at once cannot share it; and compiling from a
# cache says nothing about compiling.
_ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
}


def measure(names: list[str], job: Job, rounds: int) -> list[dict]:
    """What each contestant took for `job`: its part of the report.

    All go round `rounds` times, so that whatever else the machine does meanwhile hits all alike.
    Raises InputError if it is not a job for our own network.
    """
    with contextlib.ExitStack() as stack:
        contestants = []
        for name in names:
            stderr = stack.enter_context(tempfile.TemporaryFile("w+"))
            contestant = stack.enter_context(contextlib.closing(Contestant(name, job, stderr)))
            contestants.append(contestant)
            _say(f"{name}, L={job.layers}: {contestant.error or 'ready'}")
        for i in range(1, rounds + 1):
            for contestant in contestants:
                contestant.take_turn()
            times = (
                f"{c.name} {c.seconds[-1]:.4g} s a step" for c in contestants if c.error is None
            )
            _say(f"round {i}/{rounds}: {', '.join(times)}")
        return _with_ratios([contestant.report() for contestant in contestants])


class Contestant:
    """A process that trains a network, once it is compiled and warm. `error` says why it ended."""

    def __init__(self, name: str, job: Job, stderr: IO[str]):
        self.name, self.job = name, job
        self.error = None
        self.seconds = []
        self._stderr = stderr
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "launch.benchmark.contestant"),
                *(name, json.dumps(dataclasses.asdict(job))),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=Path(__file__).parents[2],
            env=os.environ | _ENVIRONMENT,
        )
        try:
            self._facts = self._answer()
            if name == "ours" and self._process.returncode == 2:
                raise InputError(self.error)
        except BaseException:
            self.close()
            raise

    def take_turn(self) -> None:
        if self.error is None:
            with contextlib.suppress(BrokenPipeError):  # The answer says why.
                print(self.job.steps, file=self._process.stdin, flush=True)
            answer = self._answer()
            if answer:
                self.seconds.append(answer["step_seconds"])

    def report(self) -> dict:
        described = {"contestant": self.name, "depth": self.job.layers}
        if self.error is not None:
            return described | {"error": self.error}
        times = {"step_seconds": statistics.median(self.seconds), "round_seconds": self.seconds}
        return described | times | self._facts

    def close(self) -> None:
        try:
            self._process.communicate(timeout=10)  # It ends with its input.
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._stderr.seek(0)
        last_words = self._stderr.read().strip().split("\n")[-1].removeprefix("error: ")
        code = self._process.returncode
        killed = f"killed by signal {-code}{', as when memory is full' if code == -9 else ''}"
        self.error = killed if code < 0 else last_words
        return {}


def _with_ratios(results: list[dict]) -> list[dict]:
    """`results` with their times and memory as multiples of the first, which is ours."""
    ours = results[0]
    for result in results:
        for kind, key in (("step_ratio", "step_seconds"), ("memory_ratio", "memory_bytes")):
            if result.get(key) and ours.get(key):
                result[kind] = result[key] / ours[key]
    return results


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
