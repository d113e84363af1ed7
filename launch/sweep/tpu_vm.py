"""Runs points on Cloud TPU VMs: a queued resource for each point, deleted at the end.

All hosts of a slice run the same command and find each other. All hosts must see the directory of
the sweep under the same path, such as a mounted bucket or a Filestore.
"""

import argparse
import shlex
import shutil
import subprocess
from collections.abc import Callable

from densenet_jax.errors import InputError
from launch.paths import ROOT
from launch.sweep.points import Point

_SCRIPT = """\
#!/bin/bash
# Each point gets a TPU. Status 2 is a wrong command and 4 a failed run. After any other status the
# TPU was probably preempted, and another TPU resumes from the last checkpoint.
point() {{ # TPU NAME COMMAND
    for try in $(seq {tries}); do
        gcloud compute tpus queued-resources create "$1" --node-id="$1" {where} \\
            --accelerator-type={accelerator} --runtime-version={runtime}{spot} --quiet || return
        state=
        until [ "$state" = ACTIVE ] || [ "$state" = FAILED ] || [ "$state" = SUSPENDED ]; do
            sleep 20
            state=$(gcloud compute tpus queued-resources describe "$1" {where} \\
                --format='value(state.state)')
        done
        gcloud compute tpus tpu-vm scp --recurse {root} "$1":densenet_jax --worker=all {where} &&
            gcloud compute tpus tpu-vm ssh "$1" --worker=all {where} --command="$3" \\
                >> {logs}/"$2".log 2>&1
        status=$?
        echo $status > {logs}/"$2".exit
        gcloud compute tpus queued-resources delete "$1" {where} --force --quiet
        case $status in 0 | 2 | 4) return $status ;; esac
    done
}}
{points}
wait
"""
_TRIES = 20


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("tpu-vm")
    group.add_argument("--zone", metavar="ZONE", help="such as us-central1-a")
    group.add_argument(
        "--runtime",
        default="v2-alpha-tpuv5-lite",
        help="software version of the TPU (default: %(default)s)",
    )


def render(points: list[Point], args: argparse.Namespace) -> str:
    """Renders a shell script that creates the TPUs and runs all points in parallel."""
    if not (args.zone and args.accelerator):
        raise InputError("--on tpu-vm needs --zone and --accelerator, such as v5litepod-8")
    calls = []
    for point in points:
        steps = ["cd densenet_jax", "pip install --quiet --editable '.[tpu]'"]
        steps += [args.setup] if args.setup else []
        steps.append(shlex.join(["python3", *point.arguments_in_a_copy]))
        calls.append(
            f"point {point.label} {shlex.quote(point.name)} {shlex.quote(' && '.join(steps))} &"
        )
    return _SCRIPT.format(
        tries=_TRIES,
        where=f"--zone={shlex.quote(args.zone)}",
        accelerator=shlex.quote(args.accelerator),
        runtime=shlex.quote(args.runtime),
        spot=" --spot" if args.spot else "",
        root=shlex.quote(str(ROOT)),
        logs=shlex.quote(str(points[0].directory / "logs")),
        points="\n".join(calls),
    )


def launch(points: list[Point], args: argparse.Namespace, log: Callable[[str], None]) -> None:
    """Runs the script until all points have ended."""
    text = render(points, args)
    if not shutil.which("gcloud"):
        raise InputError("there is no gcloud here: install the Google Cloud CLI, or use --dry_run")
    (points[0].directory / "logs").mkdir(parents=True, exist_ok=True)
    subprocess.run(["bash", "-c", text], check=False)
