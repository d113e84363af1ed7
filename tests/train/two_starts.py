"""Starts two runs in the same directory at random moments, and repeats this with other seeds.

    PYTHONPATH=tests:. python tests/train/two_starts.py --seeds 200

Both processes compile their trainers first, so that they open the directory within milliseconds of
each other. Exactly one may train there; the other one is refused, or finds the run finished. Prints
the number of each outcome, and a list of what was wrong.
"""

import argparse
import collections
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import small
from faults import Laboratory

from densenet_jax.train import lock
from densenet_jax.train.trainer import Trainer

WAIT_SECONDS = 0.1  # Wait for the lock. Shorter than a run, so that both outcomes occur.
LATEST_START_SECONDS = 1.0


def serve(root: Path) -> None:
    """Runs in each directory that standard input names, after a delay; prints the outcome."""
    lock._WAIT_SECONDS = WAIT_SECONDS
    laboratory, trained = Laboratory(root), []
    train = Trainer.train
    Trainer.train = lambda *arguments: (trained.append(1), train(*arguments))[1]
    print("ready", flush=True)
    for line in sys.stdin:
        delay, directory = line.rstrip("\n").split(" ", 1)
        time.sleep(float(delay))
        trained.clear()
        end = laboratory.run(Path(directory))
        print(json.dumps({"verdict": laboratory.judge(end), "trained": len(trained)}), flush=True)


def race(seeds: int) -> dict:
    """Returns the number of each outcome, and a list of what was wrong."""
    counts, wrong = collections.Counter(), []
    with tempfile.TemporaryDirectory() as root:
        processes = []
        for i in range(2):
            (Path(root) / str(i)).mkdir()
            arguments = (__file__, "--serve", Path(root) / str(i))
            processes.append(small.start(*arguments, stdin=subprocess.PIPE))
        for process in processes:
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(process.stderr.read())
        for seed in range(seeds):
            delays = random.Random(seed)
            for process in processes:
                process.stdin.write(f"{delays.uniform(0, LATEST_START_SECONDS)} {root}/run{seed}\n")
                process.stdin.flush()
            ends = [json.loads(process.stdout.readline()) for process in processes]
            verdicts = sorted(end["verdict"] for end in ends)
            writers = sum(end["trained"] > 0 for end in ends)
            counts[" and ".join(verdicts)] += 1
            if verdicts not in (["ended", "ended"], ["ended", "refused"]) or writers != 1:
                wrong.append(f"seed {seed}: {ends}")
        for process in processes:
            process.communicate("")
    return {"seeds": seeds, **counts, "what is wrong": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
    else:
        print(json.dumps(race(args.seeds), indent=2))


if __name__ == "__main__":
    main()
