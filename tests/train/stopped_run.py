"""Trains the small run, which sends signals to itself before one of its dispatches.

    SIGNALS="SIGTERM SIGINT" python stopped_run.py WORKDIR DISPATCH CHANGES [COORDINATOR PROCESS]

SIGNALS is SIGTERM if unset. DISPATCH is the number of the dispatch, counted from 1 in each start;
0 sends no signal. CHANGES is a JSON object of changes to the config. With a coordinator the run has
two processes, and only the second one receives the signals.
"""

import json
import os
import signal
import sys

import jax
import small

from densenet_jax.train.fit import fit
from densenet_jax.train.trainer import Trainer
from launch import command


def main(workdir: str, dispatch: str, changes: str, *processes: str) -> None:
    if processes:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(processes[0], 2, int(processes[1]))
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # The tests may run under nohup.
    train, done = Trainer.train, 0

    def train_and_signal(trainer, *arguments):
        nonlocal done
        done += 1
        if done == int(dispatch) and jax.process_index() == jax.process_count() - 1:
            for name in os.environ.get("SIGNALS", "SIGTERM").split():
                os.kill(os.getpid(), signal.Signals[name])
        return train(trainer, *arguments)

    Trainer.train = train_and_signal
    fit(small.config(json.loads(changes)), workdir)


if __name__ == "__main__":
    sys.exit(command.run(lambda argv: main(*sys.argv[1:])))
