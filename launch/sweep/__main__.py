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
from launch.report.runs import find_runs
from launch.sweep import gke, local, skypilot, slurm, tpu_vm
from launch.sweep.points import Look, Point, check_characters, load_points
from launch.sweep.status import failures, problems, show, table

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
    for name, value in vars(args).items():
        if isinstance(value, str) and name not in ("setup", "sbatch"):
            check_characters(f"--{name}", value)
    points = load_points(args.sweep, args.workdir, overrides)
    console = Console(highlight=False, soft_wrap=True)

    def say(text: str) -> None:
        console.print(text, markup=False)

    if args.status:
        show(points, console)
        return
    looks = [point.look() for point in points]
    _check_folder(points, looks)
    wanted = {"waiting", "interrupted"} | ({"failed", "submitted"} if args.retry else set())
    todo = [point for point, look in zip(points, looks, strict=True) if look.state in wanted]
    engine = ENGINES[args.on]
    if args.dry_run:
        say(engine.render(todo, args) if todo else "nothing is left to run")
        if found := problems(points, looks):
            print(found, file=sys.stderr)
        return
    say(f"{counted(len(points), 'point')}, {len(todo)} to run in {args.workdir}")
    if todo:
        engine.launch(todo, args, say)
        looks = [point.look() for point in points]
    console.print(table(points, looks))
    if todo and (runs := find_runs(args.workdir).finished):
        from launch.report import sweep  # matplotlib, needed only now.

        report = args.workdir / "report"
        say(f"\n{sweep.write(runs, report)}\nWritten to {report}/sweep.md, .csv, .png, .svg, .pdf")
    failed, unusable = failures(points, looks), problems(points, looks)
    if unusable or failed:
        print("\n".join(filter(None, [unusable, failed])), file=sys.stderr)
    if failed:
        raise RunError(
            "points failed, see above: correct their settings, or try them again with --retry"
        )
    if unusable:
        raise InputError("points cannot be used, see above: mend or move their directories")


def _check_folder(points: list[Point], looks: list[Look]) -> None:
    """Raises InputError if the directory of the sweep is a file, or belongs to another sweep."""
    folder = points[0].folder
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"workdir {folder} cannot be a folder: {existing} is a file.")
    others = [look.problem for look in looks if look.state == "mismatched"]
    if others and {look.state for look in looks} <= {"mismatched", "waiting", "broken"}:
        raise InputError(f"all runs in {folder} are of other configs, such as: {others[0]}")


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
