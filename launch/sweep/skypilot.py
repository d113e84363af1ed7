"""Runs points through SkyPilot: a managed job for each point, on any cloud with free machines.

SkyPilot replaces preempted spot machines. The bucket `--bucket` is mounted at the path of the
directory of the sweep.
"""

import argparse
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable

import yaml

from densenet_jax.errors import InputError
from launch.paths import ROOT
from launch.sweep.points import Point, check_unicode

_PORT = 8476


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("skypilot")
    group.add_argument("--bucket", metavar="URL", help="bucket for --workdir, such as gs://NAME")


def task(point: Point, args: argparse.Namespace) -> dict:
    """Returns SkyPilot's description of the job of a point."""
    if not (args.bucket and args.accelerator):
        raise InputError("--on skypilot needs --bucket and --accelerator, such as H100:8")
    extra = "tpu" if args.accelerator.startswith("tpu") else "cuda12"
    directory = str(point.directory)
    if not re.fullmatch(r"[A-Za-z0-9_./+=@,-]+", directory):
        raise InputError(
            f"--workdir is {directory!r}: use only letters, digits and _ . / + = @ , - because "
            "SkyPilot mounts a bucket there"
        )
    command = shlex.join(["python", *point.arguments_in_a_copy])
    check_unicode(command)
    if args.nodes > 1:
        command += (
            f' --coordinator="$(head -n1 <<< "$SKYPILOT_NODE_IPS"):{_PORT}"'
            ' --processes="$SKYPILOT_NUM_NODES" --process="$SKYPILOT_NODE_RANK"'
        )
    return {
        "name": point.label,
        "num_nodes": args.nodes,
        "resources": {"accelerators": args.accelerator, "use_spot": args.spot},
        "workdir": str(ROOT),
        "file_mounts": {directory: {"source": args.bucket, "mode": "MOUNT"}},
        "setup": "\n".join([f"pip install --editable '.[{extra}]'", args.setup]).strip(),
        "run": command,
    }


def render(points: list[Point], args: argparse.Namespace) -> str:
    """Renders the tasks as YAML documents."""
    return yaml.safe_dump_all((task(point, args) for point in points), sort_keys=False)


def launch(points: list[Point], args: argparse.Namespace, log: Callable[[str], None]) -> None:
    """Submits a job for each point. Raises InputError if SkyPilot is missing or rejects a job."""
    tasks = [task(point, args) for point in points]
    if not shutil.which("sky"):
        raise InputError("there is no sky here: pip install skypilot, or use --dry_run")
    for point, description in zip(points, tasks, strict=True):
        path = point.file("sky.yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(description, sort_keys=False))
        done = subprocess.run(
            ["sky", "jobs", "launch", "--yes", "--detach-run", str(path)], check=False
        )
        if done.returncode:
            raise InputError(f"sky rejected {path}, see above: correct the flags")
        point.note_submitted()
        log(f"submitted {point.name}")
