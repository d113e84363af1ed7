"""Kills processes of a run of two, which restart; compares the end with an undisturbed run.

    PYTHONPATH=tests:. python tests/train/torture_peers.py --kills 50

The process and the moment are random: a third of the kills comes soon after the start of the
processes, a third soon after the first epoch, a third during a save. Prints the number of kills at
each point, and whether the metrics and the arrays are equal.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import small
import torture

# An epoch has four steps.
RUN = torture.RUN | {"batch_size": 350}
EPOCHS_PER_KILL = 4  # More than one start completes before it is killed.
# Allows for a loaded machine. A killed process is detected at once, without the timeout.
FLAGS = ("--timeout=120",)
LONGEST_WAIT_SECONDS = 180


class Pair:
    """The two commands of a run that has a process on each of two hosts."""

    def __init__(self, directory: Path, *arguments: str, restarts: int = 0):
        directory.mkdir(parents=True, exist_ok=True)
        self.run = directory / "run"
        self.outputs = [directory / f"output{i}" for i in range(2)]
        self.errors = [directory / f"errors{i}" for i in range(2)]
        shared = (f"--coordinator={small.free_address()}", "--processes=2", *arguments)
        shared += (f"--restarts={restarts}",) if restarts else ()
        self.processes = []
        for i in range(2):
            with self.outputs[i].open("w") as stdout, self.errors[i].open("w") as stderr:
                flags = (*shared, f"--process={i}")
                process = small.start_train(self.run, *flags, stdout=stdout, stderr=stderr)
            self.processes.append(process)

    def worker(self, i: int) -> int | None:
        """Returns the ID of the process that trains, a child of the command, or None."""
        pid = self.processes[i].pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else None

    def epochs(self) -> int:
        """Returns the number of epochs that process 0 has reported in all its starts."""
        return self.outputs[0].read_text().count("epoch ")

    def unfinished(self) -> set[tuple[str, int]]:
        return torture.unfinished(self.run)

    def wait(self) -> list[int]:
        return [process.wait(timeout=3600) for process in self.processes]


def wait_until(condition) -> None:
    """Waits until `condition()` is true; fails after LONGEST_WAIT_SECONDS."""
    end = time.monotonic() + LONGEST_WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "the processes did not start again"
        time.sleep(0.002)


def kill(pair: Pair, i: int, kind: str, moments: random.Random) -> str:
    """Kills process `i` at a random moment; returns at which point of the run."""
    epochs, left_over = pair.epochs(), pair.unfinished()
    if kind != "from the start":
        wait_until(lambda: pair.epochs() > epochs)
    if kind == "in a save":
        wait_until(lambda: pair.unfinished() - left_over)
    longest = {"from the start": 10, "in training": 1, "in a save": 0.05}[kind]
    time.sleep(moments.uniform(0, longest))
    wait_until(lambda: pair.worker(i))
    assert [process.poll() for process in pair.processes] == [None, None], "the run ended too early"
    # The process may have ended already, because it lost the other one.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pair.worker(i), signal.SIGKILL)
    if pair.unfinished() - left_over:
        return "inside a save"
    return "between saves" if pair.epochs() > epochs else "before the first epoch of a start"


def torture_pair(directory: Path, kills: int, seed: int = 0) -> dict:
    """Runs both runs in `directory`; returns a report."""
    moments, epochs = random.Random(seed), EPOCHS_PER_KILL * max(kills, 5)
    flags = (*small.flags(RUN | {"epochs": epochs}), *FLAGS)
    undisturbed = Pair(directory / "undisturbed", *flags)
    assert undisturbed.wait() == [0, 0], undisturbed.errors[0].read_text()
    print(f"the undisturbed run has {epochs} epochs")
    pair, fell, killed = Pair(directory / "disturbed", *flags, restarts=4 * kills), {}, [0, 0]
    for number in range(kills):
        i = number % 2 if kills < 4 else moments.randrange(2)
        where = kill(pair, i, torture.KINDS[number % 3], moments)
        fell[where] = fell.get(where, 0) + 1
        killed[i] += 1
        print(f"kill {number + 1}/{kills} of process {i} {where}; {pair.epochs()} epochs reported")
    statuses = pair.wait()
    errors = [path.read_text() for path in pair.errors]
    runs = undisturbed.run, pair.run
    metrics = [(run / "metrics.jsonl").read_bytes() for run in runs]
    states = [torture.final_state(run, epochs, RUN) for run in runs]
    return {
        "kills": fell,
        "of_process": killed,
        "statuses": statuses,
        "restarts": [text.count("\nrestart ") + text.startswith("restart ") for text in errors],
        "tracebacks": sum(text.count("Traceback") for text in errors),
        "epochs": epochs,
        "metrics_are_equal": metrics[0] == metrics[1],
        "arrays_are_equal": states[0] == states[1],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    args = parser.parse_args()
    directory = Path(tempfile.mkdtemp())
    report = torture_pair(directory, args.kills, args.seed)
    print(json.dumps(report, indent=2))
    shutil.rmtree(directory)
    return 0 if report["metrics_are_equal"] and report["arrays_are_equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
