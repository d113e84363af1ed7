"""Kills processes of a run of two, which restart by themselves; compares with an undisturbed run.

    PYTHONPATH=tests:. python tests/train/torture_peers.py --kills 50

Which process dies is random, and so is the moment: a third from the start of the processes on, a
third from the first epoch on, a third while a checkpoint is written. Prints how many kills fell
where, and what was equal.
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

# Four steps are an epoch.
RUN = torture.RUN | {"batch_size": 350}
EPOCHS_A_KILL = 4  # More than one start gets done.
# Slack for a machine with other work; what dies is noticed at once.
FLAGS = ("--timeout=120",)
LONGEST_WAIT_SECONDS = 180


class Pair:
    """The two commands of a run, as on two hosts."""

    def __init__(self, folder: Path, *arguments: str, restarts: int = 0):
        folder.mkdir(parents=True, exist_ok=True)
        self.run = folder / "run"
        self.outputs = [folder / f"output{i}" for i in range(2)]
        self.errors = [folder / f"errors{i}" for i in range(2)]
        shared = (f"--coordinator={small.free_address()}", "--processes=2", *arguments)
        shared += (f"--restarts={restarts}",) if restarts else ()
        self.processes = []
        for i in range(2):
            with self.outputs[i].open("w") as stdout, self.errors[i].open("w") as stderr:
                flags = (*shared, f"--process={i}")
                process = small.start_train(self.run, *flags, stdout=stdout, stderr=stderr)
            self.processes.append(process)

    def worker(self, i: int) -> int | None:
        """Returns the process that trains, a child of the command; None between two restarts."""
        pid = self.processes[i].pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else None

    def epochs(self) -> int:
        """Returns how many epochs process 0 has reported in all its starts."""
        return self.outputs[0].read_text().count("epoch ")

    def unfinished(self) -> set[tuple[str, int]]:
        return torture.unfinished(self.run)

    def wait(self) -> list[int]:
        return [process.wait(timeout=3600) for process in self.processes]


def wait_until(condition) -> None:
    end = time.monotonic() + LONGEST_WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "the processes did not start again"
        time.sleep(0.002)


def kill(pair: Pair, i: int, kind: str, moments: random.Random) -> str:
    """Kills process `i` at a random moment. Returns where the kill fell."""
    epochs, left_over = pair.epochs(), pair.unfinished()
    if kind != "from the start":
        wait_until(lambda: pair.epochs() > epochs)
    if kind == "in a save":
        wait_until(lambda: pair.unfinished() - left_over)
    longest = {"from the start": 10, "in training": 1, "in a save": 0.05}[kind]
    time.sleep(moments.uniform(0, longest))
    wait_until(lambda: pair.worker(i))
    assert [process.poll() for process in pair.processes] == [None, None], "the run ended too early"
    with contextlib.suppress(ProcessLookupError):  # It may be about to leave, without the other.
        os.kill(pair.worker(i), signal.SIGKILL)
    if pair.unfinished() - left_over:
        return "inside a save"
    return "between saves" if pair.epochs() > epochs else "before the first epoch of a start"


def torture_pair(folder: Path, kills: int, seed: int = 0, say=print) -> dict:
    """Returns what happened: see the keys."""
    moments, epochs = random.Random(seed), EPOCHS_A_KILL * max(kills, 5)
    flags = (*small.flags(RUN | {"epochs": epochs}), *FLAGS)
    undisturbed = Pair(folder / "undisturbed", *flags)
    assert undisturbed.wait() == [0, 0], undisturbed.errors[0].read_text()
    say(f"the undisturbed run has {epochs} epochs")
    pair, fell, killed = Pair(folder / "disturbed", *flags, restarts=4 * kills), {}, [0, 0]
    for number in range(kills):
        i = number % 2 if kills < 4 else moments.randrange(2)
        where = kill(pair, i, torture.KINDS[number % 3], moments)
        fell[where] = fell.get(where, 0) + 1
        killed[i] += 1
        say(f"kill {number + 1}/{kills} of process {i} {where}; {pair.epochs()} epochs reported")
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
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    report = torture_pair(folder, args.kills, args.seed)
    print(json.dumps(report, indent=2))
    shutil.rmtree(folder)
    return 0 if report["metrics_are_equal"] and report["arrays_are_equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
