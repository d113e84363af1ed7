"""Kills a training run repeatedly, and compares its end with that of an undisturbed run.

    python tests/train/torture.py --kills 20

The moments are random: a third of the kills comes during a save after the first, a third soon
after the first epoch, a third soon after the start of the process. Prints the number of kills at
each point, and whether the metrics and the arrays are equal.
"""

import argparse
import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import small

from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.trainer import Trainer

RUN = small.PLAIN | {"model.dropout_rate": 0.2, "data.augment": True, "checkpoint_every_epochs": 4}
EPOCHS_PER_KILL = 15  # More than one start completes before it is killed.
KINDS = ("in a save", "in training", "from the start")


def start(directory: Path, epochs: int):
    return small.start_train(directory, *small.flags(RUN | {"epochs": epochs}))


def finished(directory: Path) -> list[str]:
    """Returns the name of each complete checkpoint."""
    return [path.name for path in (directory / "checkpoints").glob("*") if path.name.isdigit()]


def unfinished(directory: Path) -> set[tuple[str, int]]:
    """Returns the name and inode of each checkpoint that is, or was at a kill, being written."""
    return {(path.name, path.stat().st_ino) for path in (directory / "checkpoints").glob("*tmp*")}


def kill(process, directory: Path, kind: str, moments: random.Random) -> None:
    if kind != "from the start":
        for line in process.stdout:
            if line.startswith("epoch"):
                break
    if kind == "in a save":
        while process.poll() is None:
            with contextlib.suppress(FileNotFoundError):
                if finished(directory) and unfinished(directory):
                    break
            time.sleep(0.0002)
    time.sleep(moments.uniform(0, {"from the start": 5, "in training": 1, "in a save": 0.05}[kind]))
    process.kill()
    process.communicate()


def final_state(directory: Path, epochs: int, run: dict = RUN):
    trainer = Trainer(small.config(run | {"epochs": epochs}))
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps()[0] == epochs * trainer.steps_per_epoch
        state, _ = checkpoints.restore(like=trainer.initial_state)
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def torture(directory: Path, kills: int, seed: int = 0) -> dict:
    """Runs both runs in `directory`; returns a report."""
    moments, epochs = random.Random(seed), EPOCHS_PER_KILL * kills
    undisturbed, disturbed = directory / "undisturbed", directory / "disturbed"
    _, errors = (process := start(undisturbed, epochs)).communicate()
    assert process.returncode == 0, errors
    fell = dict.fromkeys(("before a checkpoint was there", "between saves", "inside a save"), 0)
    for i in range(kills):
        left_over = unfinished(disturbed)
        process = start(disturbed, epochs)
        kill(process, disturbed, KINDS[i % len(KINDS)], moments)
        assert process.returncode == -9, "the run ended too early to be killed so often"
        names = sorted(path.name for path in (disturbed / "checkpoints").glob("*"))
        where = "between saves" if names else "before a checkpoint was there"
        where = "inside a save" if unfinished(disturbed) - left_over else where
        fell[where] += 1
        print(f"kill {i + 1}/{kills} {where}; checkpoints: {' '.join(names)}")
    output, errors = (process := start(disturbed, epochs)).communicate()
    assert process.returncode == 0, errors
    print(next(line for line in output.splitlines() if line.startswith("resuming")))
    metrics = [(path / "metrics.jsonl").read_bytes() for path in (undisturbed, disturbed)]
    states = [final_state(path, epochs) for path in (undisturbed, disturbed)]
    return {
        "kills": fell,
        "epochs": epochs,
        "metrics_are_equal": metrics[0] == metrics[1],
        "arrays_are_equal": states[0] == states[1],
        "left_over": sorted(name for name, _ in unfinished(disturbed)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    args = parser.parse_args()
    directory = Path(tempfile.mkdtemp())
    report = torture(directory, args.kills, args.seed)
    print(json.dumps(report, indent=2))
    shutil.rmtree(directory)
    return 0 if report["metrics_are_equal"] and report["arrays_are_equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
