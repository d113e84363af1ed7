"""Runs points through SkyPilot: a managed job for each, on whichever cloud has room.

Spot machines that are taken away are replaced. The folder of the sweep is a bucket, `--bucket`,
mounted at its path.
"""

import argparse
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable

import yaml

from densenet_jax.errors import InputError
from launch.sweep.points import ROOT, Point, check_unicode

_PORT = 8476


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("skypilot")
    group.add_argument("--bucket", metavar="URL", help="such as gs://NAME, for the workdir")


def task(point: Point, args: argparse.Namespace) -> dict:
    """SkyPilot's description of a point."""
    if not (args.bucket and args.accelerator):
        raise InputError("--on skypilot needs --bucket and --accelerator, such as H100:8.")
    extra = "tpu" if args.accelerator.startswith("tpu") else "cuda12"
    folder = str(point.folder)
    if not re.fullmatch(r"[A-Za-z0-9_./+=@,-]+", folder):
        raise InputError(
            f"--workdir is {folder!r}: SkyPilot mounts a bucket at a path of letters, digits and "
            "_ . / + = @ , - only"
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
        "file_mounts": {folder: {"source": args.bucket, "mode": "MOUNT"}},
        "setup": "\n".join([f"pip install --editable '.[{extra}]'", args.setup]).strip(),
        "run": command,
    }


def render(points: list[Point], args: argparse.Namespace) -> str:
    """The tasks, as YAML documents."""
    return yaml.safe_dump_all((task(point, args) for point in points), sort_keys=False)


def launch(points: list[Point], args: argparse.Namespace, say: Callable[[str], None]) -> None:
    tasks = [task(point, args) for point in points]
    if not shutil.which("sky"):
        raise InputError("there is no sky here: pip install skypilot, or use --dry_run.")
    for point, description in zip(points, tasks, strict=True):
        path = point.file("sky.yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(description, sort_keys=False))
        done = subprocess.run(
            ["sky", "jobs", "launch", "--yes", "--detach-run", str(path)], check=False
        )
        if done.returncode:
            raise InputError(f"sky refuses {path}; see above.")
        point.note_submitted()
        say(f"submitted {point.name}")
