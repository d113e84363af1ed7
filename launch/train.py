"""Train a network as the config of an experiment specifies.

    python -m launch.train --config experiments/quickstart.py --workdir runs/quickstart

Run the command again to resume from the last checkpoint in the run directory. Writes config.json,
model.json, environment.json, metrics.jsonl, checkpoints/, tensorboard/, result.json and
learning_curve.png there.
"""

import math
import sys

import jax

from densenet_jax.errors import INTERRUPTED_STATUS, InputError, counted
from densenet_jax.train import process
from densenet_jax.train.fit import fit
from densenet_jax.train.record import RunDirectory
from launch import command, hosts, restarts
from launch.paths import typed_path


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__, with_config=True, resumes=True)
    parser.add_argument(
        "--workdir", required=True, type=typed_path, help="the run directory; created if missing"
    )
    parser.add_argument(
        "--restarts",
        type=int,
        default=0,
        metavar="N",
        help="restart from the last checkpoint, at most N times, after status "
        f"{INTERRUPTED_STATUS} or a signal that kills; set it on every host (default: %(default)s)",
    )
    hosts.add_flags(parser)
    args, overrides = parser.parse_known_args(argv)
    if args.restarts < 0:
        raise InputError(f"--restarts is {args.restarts}: it must be at least 0")
    if args.restarts:
        argv = sys.argv[1:] if argv is None else argv
        run_once = [sys.executable, "-m", "launch.train", *argv, "--restarts=0"]
        # A lone process may be stopped on purpose; several do not wait for ever for a stopped one.
        stop_timeout = args.timeout if args.coordinator else math.inf
        raise SystemExit(restarts.supervise(run_once, args.restarts, stop_timeout))
    command.use_compile_cache(args.compile_cache)
    run = RunDirectory(args.workdir)
    finished = run.result() is not None
    if not finished:  # A process that restarts after the others have finished finds no others.
        hosts.join(args)
    process.configure(jax_is_unused=True)
    picture = args.workdir / "learning_curve.png"
    try:
        result = fit(command.load_config(args.config, overrides), args.workdir)
    finally:
        if argv is None:  # The process ends with this command.
            command.ignore_stop_signals()
    if jax.process_index() > 0:
        return
    if not picture.exists():
        from densenet_jax.analysis.curves import plot_learning_curve  # matplotlib, needed only now.

        plot_learning_curve(run, picture)
    if finished:
        print(f"{args.workdir} is finished: {_summary(result)}; nothing to do")
    else:
        print(f"{_summary(result)}; learning curve: {picture}")


def _summary(result: dict) -> str:
    return (
        f"test error {result['test_error']:.2f} % after {counted(result['epochs'], 'epoch')}, "
        f"{result['train_seconds']:.0f} s, {result['images_per_second']:,.0f} images/s in "
        f"training; devices waited {result.get('input_wait_seconds', 0):.1f} s for data"
    )


if __name__ == "__main__":
    sys.exit(command.run(main))
