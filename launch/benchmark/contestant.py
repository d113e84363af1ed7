"""One contestant, in the process of its own that `python -m launch.benchmark` starts.

    python -m launch.benchmark.contestant NAME JOB
    python -m launch.benchmark.contestant platform

The first form takes JOB as JSON. It prints a line of JSON when the network is compiled and warm.
Then it reads lines with a number of steps, trains for so many and prints their time. The second
form prints the platform on which JAX runs.
"""

import contextlib
import json
import os
import sys
import time
import traceback

from densenet_jax.errors import InputError, RunError
from densenet_jax.train.mesh import all_devices
from launch import command
from launch.benchmark.job import Job, Runner


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv == ["platform"]:
        print(all_devices()[0].platform)
        return
    name, job = argv
    with _answers() as answer:
        try:
            _serve(name, Job(**json.loads(job)), answer)
        except InputError:
            raise
        except Exception as error:
            traceback.print_exc()
            first_line = str(error).strip().split("\n")[0]
            raise RunError(f"{type(error).__name__}: {first_line}") from error


def _serve(name: str, job: Job, answer) -> None:
    runner = prepare(name, job)
    answer({key: value for key, value in runner._asdict().items() if key != "run"})
    for line in sys.stdin:
        steps = int(line)
        started = time.perf_counter()
        runner.run(steps)
        answer({"step_seconds": (time.perf_counter() - started) / steps})


def prepare(name: str, job: Job) -> Runner:
    # JAX and PyTorch are never in one process: each takes threads and memory.
    if name == "ours":
        from launch.benchmark import jax_runners

        return jax_runners.ours(job)
    if name == "jax-naive":
        from launch.benchmark import jax_runners

        return jax_runners.naive(job)
    from launch.benchmark import torch_runners

    return torch_runners.prepare(name, job)


@contextlib.contextmanager
def _answers():
    """A function that prints a JSON line. What others print goes to standard error meanwhile."""
    with os.fdopen(os.dup(1), "w") as stdout:
        os.dup2(2, 1)
        yield lambda value: print(json.dumps(value), file=stdout, flush=True)


if __name__ == "__main__":
    sys.exit(command.run(main))
