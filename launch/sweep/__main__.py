"""Run or submit every point of a sweep; points that are finished are left alone.

    python -m launch.sweep --sweep experiments/sweeps/growth_rate.py --workdir runs/growth_rate

A sweep is an experiment with `get_hyper(hyper)` beside `get_config()`, which returns the points,
in the words `sweep`, `product`, `zipit` and `chainit`, over any keys of the config. Started again,
it goes on with what was interrupted; what failed is told, and tried again if asked.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from densenet_jax.errors import RunError
from launch import command
from launch.sweep import local, slurm
from launch.sweep.points import Point, check_folder, load_points
from launch.sweep.status import failures, show, table

ENGINES = ("local", "slurm")


def _local(points: list[Point], args: argparse.Namespace) -> str:
    return "\n".join(local.preview(point) for point in points)


def _slurm(points: list[Point], args: argparse.Namespace) -> str:
    return slurm.script(
        points,
        parallel=args.parallel,
        nodes=args.nodes,
        tasks_per_node=args.tasks_per_node,
        sbatch=args.sbatch,
        setup=args.setup,
    )


_RENDER = {"local": _local, "slurm": _slurm}
_SUBMIT = {"slurm": slurm.submit}


def main(argv: list[str] | None = None) -> None:
    args, overrides = _parser().parse_known_args(argv)
    points = load_points(args.sweep, args.workdir.absolute(), overrides)
    check_folder(points)
    console = Console(highlight=False, soft_wrap=True)

    def say(text: str) -> None:
        console.print(text, markup=False)

    if args.status:
        show(points, console)
        return
    wanted = {"waiting", "interrupted"} | ({"failed"} if args.retry else set())
    todo = [point for point in points if point.state() in wanted]
    if not args.dry_run:
        say(f"{len(points)} points, {len(todo)} to run in {args.workdir}")
    if todo and args.on == "local" and not args.dry_run:
        local.run(todo, args.parallel, say)
    elif todo:
        text = _RENDER[args.on](todo, args)
        say(text if args.dry_run else _SUBMIT[args.on](text, args.workdir))
    if args.dry_run:
        return
    console.print(table(points))
    if failed := failures(points):
        raise RunError(f"{failed}\nTry them again with --retry.")


def _parser():
    parser = command.parser(__doc__)
    parser.add_argument("--sweep", required=True, metavar="FILE.py[:ARG]", help="a sweep file")
    parser.add_argument(
        "--workdir", required=True, type=Path, help="a folder for the run directories of all points"
    )
    parser.add_argument("--on", choices=ENGINES, default="local", help="what to run it on")
    parser.add_argument("--dry_run", action="store_true", help="print what would be started")
    parser.add_argument("--status", action="store_true", help="show how far all points are")
    parser.add_argument("--retry", action="store_true", help="also try again what failed")
    parser.add_argument(
        "--parallel",
        type=int,
        default=0,
        metavar="N",
        help="points at a time; 0: one for each GPU, or else for each CPU core",
    )
    group = parser.add_argument_group("slurm")
    group.add_argument("--nodes", type=int, default=1, metavar="N", help="of each point")
    group.add_argument(
        "--tasks_per_node", type=int, default=1, metavar="N", help="processes on each node"
    )
    group.add_argument(
        "--sbatch",
        default="",
        metavar="OPTIONS",
        help="more options of sbatch, such as '--gres=gpu:8 --time=4:00:00'",
    )
    group.add_argument(
        "--setup", default="", metavar="SHELL", help="lines of shell to run before each point"
    )
    return parser


if __name__ == "__main__":
    sys.exit(command.run(main))
