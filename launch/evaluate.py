"""Evaluate the checkpoint of a run again.

    python -m launch.evaluate --workdir runs/quickstart

Prints the losses and the errors in percent; changes nothing.
"""

import json
import sys

from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.failures import telling_of_failures
from densenet_jax.train.record import RunDirectory
from densenet_jax.train.trainer import Trainer
from launch import command


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--workdir", required=True, help="a run directory")
    parser.add_argument(
        "--data_directory", help="where the data lie, if not where the run had them"
    )
    parser.add_argument(
        "--checkpoint",
        choices=("last", "best"),
        default="last",
        help="best: of the epoch with the lowest validation error, or test error if nothing was "
        "held out (%(default)s)",
    )
    command.add_processes(parser)
    args = parser.parse_args(argv)
    command.use_compile_cache(args.compile_cache)
    command.join_processes(args)
    command.keep_memory()
    run = RunDirectory(args.workdir)
    config = run.config()
    step = run.checkpoint_step(args.checkpoint)
    if args.data_directory:
        config.data.directory = args.data_directory
    with telling_of_failures(run):
        trainer = Trainer(config)
        with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
            state, _ = checkpoints.restore(trainer.initial_state, step)
        print(json.dumps({"step": int(state.step), **trainer.evaluate(state)}))


if __name__ == "__main__":
    sys.exit(command.run(main))
