"""Train a network as an experiment's config says.

    python -m launch.train --config experiments/quickstart.py --workdir runs/quickstart

Resumes by itself if the work directory holds a checkpoint of the same config. Writes there
config.json, environment.json, metrics.jsonl, checkpoints/, result.json and learning_curve.png.
"""

import sys

import jax

from densenet_jax.errors import counted
from densenet_jax.train.fit import fit
from densenet_jax.train.record import RunDirectory
from launch import command
from launch.paths import typed_path


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__, with_config=True)
    parser.add_argument(
        "--workdir", required=True, type=typed_path, help="the run directory; made if missing"
    )
    command.add_processes(parser)
    args, overrides = parser.parse_known_args(argv)
    command.use_compile_cache(args.compile_cache)
    command.join_processes(args)
    command.prepare_devices()
    # Threads that write checkpoints would keep the one that trains waiting for 5 ms at a time.
    sys.setswitchinterval(0.0005)
    run, picture = RunDirectory(args.workdir), args.workdir / "learning_curve.png"
    finished = run.result() is not None
    result = fit(command.load_config(args.config, overrides), args.workdir)
    if jax.process_index() > 0:
        return
    if not picture.exists():
        from densenet_jax.analysis.curves import plot_learning_curve  # matplotlib, needed only now.

        plot_learning_curve(run, picture)
    if finished:
        print(f"{args.workdir} is finished: {_summary(result)}. Nothing to do.")
    else:
        print(f"{_summary(result)}. Learning curve: {picture}")


def _summary(result: dict) -> str:
    return (
        f"test error {result['test_error']:.2f} % after {counted(result['epochs'], 'epoch')}, "
        f"{result['train_seconds']:.0f} s, {result['images_per_second']:,.0f} images/s; devices "
        f"waited {result.get('input_wait_seconds', 0):.1f} s for data"
    )


if __name__ == "__main__":
    sys.exit(command.run(main))
