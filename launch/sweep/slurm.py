"""Runs points as a Slurm job array: one rendered sbatch file, one task of the array a point."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from densenet_jax.errors import PREEMPTED_STATUS, InputError
from launch.sweep.local import ROOT
from launch.sweep.points import Point

# Slurm warns the processes of a run so long before its time is up.
_WARNING_SECONDS = 120

_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}{parallel}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={tasks_per_node}
#SBATCH --signal=TERM@{warning}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={logs}/slurm-%A_%a.out
{extra}
cd {root} || exit
{setup}
case $SLURM_ARRAY_TASK_ID in
{cases}
esac
logs={logs}

# One process at a time has a point, whoever started it.
exec 9> "$logs/$name.lock"
flock --nonblock 9 || {{ echo "$name runs already"; exit 0; }}
rm -f "$logs/$name.exit"

# The run saves itself when it is told to stop; this script then asks to be started again.
trap : TERM
srun --output="$logs/$name.log" --open-mode=append {python} "${{arguments[@]}}" &
srun=$!
until wait $srun; status=$?; ! kill -0 $srun 2> /dev/null; do :; done
echo $status > "$logs/$name.exit"
if [ $status = {preempted} ] || [ $status = 143 ]; then
    flock --unlock 9
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
exit $status
"""


def script(
    points: list[Point],
    *,
    parallel: int = 0,
    nodes: int = 1,
    tasks_per_node: int = 1,
    sbatch: str = "",
    setup: str = "",
) -> str:
    """The text of the sbatch file.

    Args:
      parallel: points at a time; 0: all.
      nodes, tasks_per_node: of each point; a task is a process.
      sbatch: more options of sbatch, such as "--gres=gpu:8 --time=4:00:00".
      setup: lines of shell to run before, such as "module load cuda".
    """
    folder = points[0].folder
    cases = [
        f"{i}) name={shlex.quote(point.name)}\n   arguments=({shlex.join(point.arguments)}) ;;"
        for i, point in enumerate(points)
    ]
    return _SCRIPT.format(
        name=shlex.quote(folder.name),
        last=len(points) - 1,
        parallel=f"%{parallel}" if parallel else "",
        nodes=nodes,
        tasks_per_node=tasks_per_node,
        warning=_WARNING_SECONDS,
        extra="".join(f"#SBATCH {option}\n" for option in shlex.split(sbatch)),
        root=shlex.quote(str(ROOT)),
        setup=setup,
        cases="\n".join(cases),
        logs=shlex.quote(str(folder / "logs")),
        python=shlex.quote(sys.executable),
        preempted=PREEMPTED_STATUS,
    )


def submit(text: str, folder: Path) -> str:
    """Submits the script, which it leaves in `folder`; returns what sbatch says.

    Raises InputError if there is no Slurm, or if it refuses.
    """
    if not shutil.which("sbatch"):
        raise InputError("there is no sbatch here: start this on a login node of a Slurm cluster.")
    path = folder / "logs" / "sweep.sbatch"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    done = subprocess.run(["sbatch", str(path)], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"sbatch refuses {path}: {' '.join(done.stderr.split())}")
    return done.stdout.strip()
