"""Trains one contestant, in a process that `python -m launch.benchmark` starts.

    python -m launch.benchmark.worker NAME WORKLOAD
    python -m launch.benchmark.worker platform

The first form takes WORKLOAD as JSON. It prints a line of JSON when the network is compiled and
warm. Then, for each line with a number of steps, it trains for that many steps and prints the mean
time of a step. The second form prints the platform on which JAX runs.
"""

import contextlib
import dataclasses
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator

from densenet_jax.errors import InputError, RunError
from densenet_jax.train.mesh import all_devices
from launch import command
from launch.benchmark.workload import Runner, Workload


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv == ["platform"]:
        print(all_devices()[0].platform)
        return
    name, workload = argv
    with _answers() as answer:
        try:
            _serve(name, Workload(**json.loads(workload)), answer)
        except InputError:
            raise
        except Exception as error:
            traceback.print_exc()
            first_line = str(error).strip().split("\n")[0]
            raise RunError(f"{type(error).__name__}: {first_line}") from error


def _serve(name: str, workload: Workload, answer: Callable[[dict], None]) -> None:
    runner = prepare(name, workload)
    answer({key: value for key, value in runner._asdict().items() if key != "run"})
    for line in sys.stdin:
        steps = int(line)
        started = time.perf_counter()
        runner.run(steps)
        answer({"step_seconds": (time.perf_counter() - started) / steps})


def prepare(name: str, workload: Workload) -> Runner:
    """Returns the compiled and warm network of the contestant `name`."""
    # Import JAX's or PyTorch's contestants, not both: each library takes threads and memory.
    if name in ("ours", "xla"):
        from launch.benchmark import jax_runners

        block = workload.block if name == "ours" else "xla"
        return jax_runners.ours(dataclasses.replace(workload, block=block))
    if name == "jax-naive":
        from launch.benchmark import jax_runners

        return jax_runners.naive(workload)
    from launch.benchmark import torch_runners

    return torch_runners.prepare(name, workload)


@contextlib.contextmanager
def _answers() -> Iterator[Callable[[dict], None]]:
    """Yields a function that prints a line of JSON; redirects all other output to stderr."""
    with os.fdopen(os.dup(1), "w") as stdout:
        os.dup2(2, 1)
        yield lambda value: print(json.dumps(value), file=stdout, flush=True)


if __name__ == "__main__":
    sys.exit(command.run(main))
