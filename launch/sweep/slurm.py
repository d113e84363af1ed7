"""Runs points as a Slurm job array: one sbatch file, with one array task for each point."""

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable

from densenet_jax.errors import INTERRUPTED_STATUS, PREEMPTED_STATUS, InputError
from launch.paths import ROOT
from launch.sweep.points import Point, check_characters, label

# Slurm sends SIGTERM this long before the time limit of a job.
_WARNING_SECONDS = 120
# Slurm counts all requeues of a job, including those after preemptions.
_MOST_REQUEUES = 20

_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}{parallel}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={tasks_per_node}
#SBATCH --signal=TERM@{warning}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={output}
{extra}
cd {root} || exit
{setup}
case $SLURM_ARRAY_TASK_ID in
{cases}
esac
logs={logs}

# Only one process at a time may run a point.
exec 9> "$logs/$name.lock"
flock --wait 5 9 || {{ echo "$name is already running"; exit 0; }}
rm -f "$logs/$name.exit" "$logs/$name.submitted"

# After SIGTERM the run saves a checkpoint and stops; this script then requeues the job.
trap : TERM
srun --output="${{logs//%/%%}}/$name.log" --open-mode=append {python} "${{arguments[@]}}" &
srun=$!
until wait $srun; status=$?; ! kill -0 $srun 2> /dev/null; do :; done
echo $status > "$logs/$name.exit"
# A preempted run is always requeued. A run that its machine interrupted is requeued up to
# {requeues} times, because the cause, such as a full disk, may remain.
requeue=false
case $status in
{preempted} | 143) requeue=true ;;
{interrupted}) [ "${{SLURM_RESTART_COUNT:-0}}" -lt {requeues} ] && requeue=true ;;
esac
if $requeue; then
    touch "$logs/$name.submitted"
    flock --unlock 9
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
exit $status
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("slurm")
    group.add_argument(
        "--tasks_per_node",
        type=int,
        default=1,
        metavar="N",
        help="processes per node. 1: one process uses all GPUs; set it to the GPU count for one "
        "process per GPU (default: %(default)s)",
    )
    group.add_argument(
        "--sbatch",
        default="",
        metavar="OPTIONS",
        help="additional options of sbatch, such as '--gres=gpu:8 --time=4:00:00'",
    )


def render(points: list[Point], args: argparse.Namespace) -> str:
    """Renders the sbatch file."""
    directory = points[0].directory
    cases = [
        f"{i}) name={shlex.quote(point.name)}\n   arguments=({shlex.join(point.arguments)}) ;;"
        for i, point in enumerate(points)
    ]
    return _SCRIPT.format(
        name=label(directory.name, directory),
        last=len(points) - 1,
        parallel=f"%{args.parallel}" if args.parallel else "",
        nodes=args.nodes,
        tasks_per_node=args.tasks_per_node,
        warning=_WARNING_SECONDS,
        extra=_directives(args.sbatch),
        root=shlex.quote(str(ROOT)),
        setup=args.setup,
        cases="\n".join(cases),
        # Slurm replaces patterns such as %A, and %% by %.
        output=shlex.quote(str(directory).replace("%", "%%") + "/logs/slurm-%A_%a.out"),
        logs=shlex.quote(str(directory / "logs")),
        python=shlex.quote(sys.executable),
        preempted=PREEMPTED_STATUS,
        interrupted=INTERRUPTED_STATUS,
        requeues=_MOST_REQUEUES,
    )


def _directives(options: str) -> str:
    """Renders a line for each option of --sbatch. Raises InputError for unbalanced quotes."""
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise InputError(
            f"--sbatch is {options!r}, which has unbalanced quotes: close every quote"
        ) from error
    lines: list[str] = []
    for word in words:
        if word.startswith("-") or not lines:
            lines.append("#SBATCH")
        check_characters("--sbatch", word)
        lines[-1] += f" {shlex.quote(word)}"  # Slurm parses quotes like a shell.
    return "".join(f"{line}\n" for line in lines)


def launch(points: list[Point], args: argparse.Namespace, log: Callable[[str], None]) -> None:
    """Writes the sbatch file to `logs` and submits it.

    Raises InputError if Slurm is missing or rejects the file.
    """
    text = render(points, args)
    if not shutil.which("sbatch"):
        raise InputError(
            "there is no sbatch here: run this command on a login node of a Slurm cluster"
        )
    path = points[0].directory / "logs" / "sweep.sbatch"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    done = subprocess.run(["sbatch", str(path)], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"sbatch rejected {path}: {' '.join(done.stderr.split())}")
    for point in points:
        point.note_submitted()
    log(done.stdout.strip())
