"""Run or submit every point of a sweep, except finished points.

    python -m launch.sweep --sweep experiments/sweeps/growth_rate.py --workdir runs/growth_rate

A sweep is an experiment file that also defines `get_hyper(hyper)`. The function returns points over
any keys of the config, built with `hyper.sweep`, `hyper.product`, `hyper.zipit` and
`hyper.chainit`. An experiment without `get_hyper` is a sweep of one point.

The same command resumes interrupted points. Failed points are reported; --retry reruns them. At the
end a report is written to WORKDIR/report; `launch.report sweep` writes one at any time.
"""

import argparse
import sys

from rich.console import Console

from densenet_jax.errors import InputError, RunError, counted
from launch import command
from launch.paths import typed_path
from launch.report.runs import find_runs
from launch.sweep import gke, local, skypilot, slurm, tpu_vm
from launch.sweep.hours import expected_hours
from launch.sweep.points import Point, Snapshot, check_characters, load_points
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
            raise InputError(f"--{name} is {getattr(args, name)}: it must be at least {least}")
    for name, value in vars(args).items():
        if isinstance(value, str) and name not in ("setup", "sbatch"):
            check_characters(f"--{name}", value)
    points = load_points(args.sweep, args.workdir, overrides)
    console = Console(highlight=False, soft_wrap=True)

    def log(text: str) -> None:
        console.print(text, markup=False)

    if args.status:
        show(points, console)
        return
    snapshots = [point.snapshot() for point in points]
    _check_directory(points, snapshots)
    states = {"waiting", "interrupted"} | ({"failed", "submitted"} if args.retry else set())
    todo = [p for p, s in zip(points, snapshots, strict=True) if s.state in states]
    engine = ENGINES[args.on]
    if args.dry_run:
        log(engine.render(todo, args) if todo else "no points left to run")
        if todo:  # Not to stdout, which is a script.
            print(expected_hours(todo), file=sys.stderr)
        if found := problems(points, snapshots):
            print(found, file=sys.stderr)
        return
    log(f"{counted(len(points), 'point')}, {len(todo)} to run in {args.workdir}")
    if todo:
        engine.launch(todo, args, log)
        snapshots = [point.snapshot() for point in points]
    console.print(table(points, snapshots))
    if todo and (runs := find_runs(args.workdir).finished):
        from launch.report import sweep  # Imports matplotlib, which takes long.

        report = args.workdir / "report"
        log(f"\n{sweep.write(runs, report)}\nWritten to {report}/sweep.md, .csv, .png, .svg, .pdf")
    failed, unusable = failures(points, snapshots), problems(points, snapshots)
    if unusable or failed:
        print("\n".join(filter(None, [unusable, failed])), file=sys.stderr)
    if failed:
        raise RunError(
            "points failed, see above: correct their settings, or rerun them with --retry"
        )
    if unusable:
        raise InputError("points cannot be used, see above: restore or move their directories")


def _check_directory(points: list[Point], snapshots: list[Snapshot]) -> None:
    """Raises InputError if the directory of the sweep is a file, or belongs to another sweep."""
    directory = points[0].directory
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir():
        raise InputError(
            f"--workdir is {directory}, but {existing} is a file: choose another --workdir"
        )
    others = [snapshot.problem for snapshot in snapshots if snapshot.state == "mismatched"]
    if others and {snapshot.state for snapshot in snapshots} <= {"mismatched", "waiting", "broken"}:
        raise InputError(f"all runs in {directory} have other configs, such as: {others[0]}")


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(__doc__, compiles=False, resumes=True)
    parser.add_argument(
        "--sweep", required=True, metavar="FILE.py[:ARG]", help="a sweep file, or an experiment"
    )
    parser.add_argument(
        "--workdir", required=True, type=typed_path, help="directory for the runs of all points"
    )
    parser.add_argument(
        "--on", choices=ENGINES, default="local", help="where to run (default: %(default)s)"
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print commands or scripts and expected hours, but start nothing",
    )
    parser.add_argument("--status", action="store_true", help="show the state of all points")
    parser.add_argument(
        "--retry", action="store_true", help="also rerun failed or submitted points"
    )
    parser.add_argument(
        "--parallel",
        type=int,
        default=0,
        metavar="N",
        help="number of points at a time; 0: all on slurm, else one for each GPU, or one for each "
        "CPU core if there are no GPUs (default: %(default)s)",
    )
    group = parser.add_argument_group("clusters and clouds")
    group.add_argument(
        "--nodes",
        type=int,
        default=1,
        metavar="N",
        help="nodes for each point, on slurm, gke and skypilot (default: %(default)s)",
    )
    group.add_argument(
        "--accelerator",
        metavar="NAME",
        help="accelerators of a node, in the notation of the engine",
    )
    group.add_argument(
        "--spot", action="store_true", help="use cheaper machines that may be preempted"
    )
    group.add_argument(
        "--setup", default="", metavar="SHELL", help="a shell command to run before each point"
    )
    for engine in ENGINES.values():
        engine.add_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(command.run(main))
