"""Run or submit every point of a sweep; points that are finished are left alone.

    python -m launch.sweep --sweep experiments/sweeps/growth_rate.py --workdir runs/growth_rate

A sweep is an experiment with `get_hyper(hyper)` beside `get_config()`, which returns the points,
in the words `sweep`, `product`, `zipit` and `chainit`, over any keys of the config. Started again,
it goes on with what was interrupted; what failed is told, and tried again if asked. In the end it
draws what came of it to WORKDIR/report; `launch.report sweep` does that at any time.
"""

import sys

from rich.console import Console

from densenet_jax.errors import InputError, RunError, counted
from launch import command
from launch.paths import typed_path
from launch.report import sweep
from launch.report.runs import find_runs
from launch.sweep import gke, local, skypilot, slurm, tpu_vm
from launch.sweep.points import check_folder, load_points
from launch.sweep.status import failures, show, table

ENGINES = {
    "local": local,
    "slurm": slurm,
    "tpu-vm": tpu_vm,
    "gke": gke,
    "skypilot": skypilot,
}


def main(argv: list[str] | None = None) -> None:
    args, overrides = _parser().parse_known_args(argv)
    for name, least in (("parallel", 0), ("nodes", 1), ("tasks_per_node", 1)):
        if getattr(args, name) < least:
            raise InputError(f"--{name} is {getattr(args, name)}: it must be at least {least}.")
    points = load_points(args.sweep, args.workdir, overrides)
    check_folder(points)
    console = Console(highlight=False, soft_wrap=True)

    def say(text: str) -> None:
        console.print(text, markup=False)

    if args.status:
        show(points, console)
        return
    wanted = {"waiting", "interrupted"} | ({"failed", "submitted"} if args.retry else set())
    todo = [point for point in points if point.state() in wanted]
    engine = ENGINES[args.on]
    if args.dry_run:
        say(engine.render(todo, args) if todo else "nothing is left to run")
        return
    say(f"{counted(len(points), 'point')}, {len(todo)} to run in {args.workdir}")
    if todo:
        engine.launch(todo, args, say)
    console.print(table(points))
    if todo and (runs := find_runs(args.workdir)[0]):
        report = args.workdir / "report"
        say(f"\n{sweep.write(runs, report)}\nWritten to {report}/sweep.md, .csv, .png, .svg, .pdf")
    if failed := failures(points):
        raise RunError(f"{failed}\nTry them again with --retry.")


def _parser():
    parser = command.parser(__doc__, compiles=False)
    parser.add_argument("--sweep", required=True, metavar="FILE.py[:ARG]", help="a sweep file")
    parser.add_argument(
        "--workdir", required=True, type=typed_path, help="the directory for the runs of all points"
    )
    parser.add_argument("--on", choices=ENGINES, default="local", help="what to run it on")
    parser.add_argument("--dry_run", action="store_true", help="print what would be started")
    parser.add_argument("--status", action="store_true", help="show how far all points are")
    parser.add_argument(
        "--retry", action="store_true", help="also try again what failed or is submitted"
    )
    parser.add_argument(
        "--parallel",
        type=int,
        default=0,
        metavar="N",
        help="points at a time; 0: one for each GPU, or else for each CPU core; on slurm, all",
    )
    group = parser.add_argument_group("elsewhere")
    group.add_argument(
        "--nodes", type=int, default=1, metavar="N", help="of each point, on slurm, gke, skypilot"
    )
    group.add_argument("--accelerator", metavar="NAME", help="of each node, as the engine calls it")
    group.add_argument(
        "--spot", action="store_true", help="cheaper machines that may be taken away"
    )
    group.add_argument(
        "--setup", default="", metavar="SHELL", help="a line of shell to run before each point"
    )
    for engine in ENGINES.values():
        engine.add_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(command.run(main))
