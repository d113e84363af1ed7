"""Runs points as a Slurm job array: one rendered sbatch file, one task of the array a point."""

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable

from densenet_jax.errors import INTERRUPTED_STATUS, PREEMPTED_STATUS, InputError
from launch.sweep.points import ROOT, Point, check_characters, label

# Slurm warns the processes of a run so long before its time is up.
_WARNING_SECONDS = 120
# All requeues of a job count, also those after preemptions.
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

# One process at a time has a point, whoever started it.
exec 9> "$logs/$name.lock"
flock --wait 5 9 || {{ echo "$name runs already"; exit 0; }}
rm -f "$logs/$name.exit" "$logs/$name.submitted"

# The run saves itself when it is told to stop; this script then asks to be started again.
trap : TERM
srun --output="${{logs//%/%%}}/$name.log" --open-mode=append {python} "${{arguments[@]}}" &
srun=$!
until wait $srun; status=$?; ! kill -0 $srun 2> /dev/null; do :; done
echo $status > "$logs/$name.exit"
# A preempted run is always requeued. A run that its machine cut off is requeued up to {requeues}
# times, because the cause may stay, such as a full disk.
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
        help="processes on each node: 1, with all its GPUs, or one for each GPU",
    )
    group.add_argument(
        "--sbatch",
        default="",
        metavar="OPTIONS",
        help="more options of sbatch, such as '--gres=gpu:8 --time=4:00:00'",
    )


def render(points: list[Point], args: argparse.Namespace) -> str:
    """Renders the sbatch file."""
    folder = points[0].folder
    cases = [
        f"{i}) name={shlex.quote(point.name)}\n   arguments=({shlex.join(point.arguments)}) ;;"
        for i, point in enumerate(points)
    ]
    return _SCRIPT.format(
        name=label(folder.name, folder),
        last=len(points) - 1,
        parallel=f"%{args.parallel}" if args.parallel else "",
        nodes=args.nodes,
        tasks_per_node=args.tasks_per_node,
        warning=_WARNING_SECONDS,
        extra=_directives(args.sbatch),
        root=shlex.quote(str(ROOT)),
        setup=args.setup,
        cases="\n".join(cases),
        # Slurm replaces %A and the like, and %% by %.
        output=shlex.quote(str(folder).replace("%", "%%") + "/logs/slurm-%A_%a.out"),
        logs=shlex.quote(str(folder / "logs")),
        python=shlex.quote(sys.executable),
        preempted=PREEMPTED_STATUS,
        interrupted=INTERRUPTED_STATUS,
        requeues=_MOST_REQUEUES,
    )


def _directives(options: str) -> str:
    """Renders the options of --sbatch, a line each. Raises InputError for unbalanced quotes."""
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise InputError(f"--sbatch is {options!r}: its quotes are not balanced") from error
    lines = []
    for word in words:
        if word.startswith("-") or not lines:
            lines.append("#SBATCH")
        check_characters("--sbatch", word)
        lines[-1] += f" {shlex.quote(word)}"  # Slurm reads quotes as a shell does.
    return "".join(f"{line}\n" for line in lines)


def launch(points: list[Point], args: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Submits the file, which stays in `logs`.

    Raises InputError if there is no Slurm, or if it refuses.
    """
    text = render(points, args)
    if not shutil.which("sbatch"):
        raise InputError("there is no sbatch here: start this on a login node of a Slurm cluster.")
    path = points[0].folder / "logs" / "sweep.sbatch"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    done = subprocess.run(["sbatch", str(path)], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"sbatch refuses {path}: {' '.join(done.stderr.split())}")
    for point in points:
        point.note_submitted()
    say(done.stdout.strip())
