"""Runs points on Kubernetes (GKE): a JobSet for each point, which restarts preempted jobs.

The working directory of the image must hold this project. The volume of `--claim` is mounted at the
path of the directory of the sweep.
"""

import argparse
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable

import yaml

from densenet_jax.errors import InputError
from launch.sweep.points import Point, check_unicode

_PORT = 8476
_RESTARTS = 100

# Number of chips of a slice: topology and number of hosts.
_TPU_TOPOLOGIES = {
    1: ("1x1", 1),
    4: ("2x2", 1),
    8: ("2x4", 1),
    16: ("4x4", 4),
    32: ("4x8", 8),
    64: ("8x8", 16),
    128: ("8x16", 32),
    256: ("16x16", 64),
}
_TPUS = {"v5e": "tpu-v5-lite-podslice", "v6e": "tpu-v6e-slice"}
_GPUS = {
    "a100": "nvidia-tesla-a100",
    "h100": "nvidia-h100-80gb",
    "h200": "nvidia-h200-141gb",
    "l4": "nvidia-l4",
    "t4": "nvidia-tesla-t4",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("gke")
    group.add_argument("--image", metavar="IMAGE", help="a container image with this project")
    group.add_argument("--claim", metavar="NAME", help="the persistent volume claim for --workdir")
    group.add_argument(
        "--queue", metavar="NAME", help="a queue of Kueue, if the cluster uses Kueue"
    )


def render(points: list[Point], args: argparse.Namespace) -> str:
    """Renders the manifests as YAML."""
    if not (args.image and args.claim and args.accelerator):
        raise InputError(
            "--on gke needs --image, --claim and --accelerator, such as v5e-8 or h100-8"
        )
    directory = str(points[0].directory)
    if ":" in directory:
        raise InputError(
            f"--workdir is {directory!r}: choose a path without colons, which Kubernetes "
            "cannot mount"
        )
    return yaml.safe_dump_all((_job_set(point, args) for point in points), sort_keys=False)


def launch(points: list[Point], args: argparse.Namespace, log: Callable[[str], None]) -> None:
    """Applies the manifests. Raises InputError if kubectl is missing or rejects the manifests."""
    text = render(points, args)
    if not shutil.which("kubectl"):
        raise InputError("there is no kubectl here: install kubectl, or use --dry_run")
    done = subprocess.run(["kubectl", "apply", "-f", "-"], input=text, text=True)
    if done.returncode:
        raise InputError("kubectl rejected the manifests, see above: correct the flags")
    for point in points:
        point.note_submitted()


def _accelerator(args: argparse.Namespace) -> tuple[dict, dict, int]:
    """Returns the node selector, the resources of a host, and the number of hosts."""
    kind, _, count = args.accelerator.partition("-")
    if kind in _TPUS and count.isdigit() and int(count) in _TPU_TOPOLOGIES:
        topology, hosts = _TPU_TOPOLOGIES[int(count)]
        selector = {
            "cloud.google.com/gke-tpu-accelerator": _TPUS[kind],
            "cloud.google.com/gke-tpu-topology": topology,
        }
        return selector, {"google.com/tpu": int(count) // hosts}, hosts
    if kind in _GPUS and count.isdigit():
        selector = {"cloud.google.com/gke-accelerator": _GPUS[kind]}
        return selector, {"nvidia.com/gpu": int(count)}, args.nodes
    slices = ", ".join(map(str, _TPU_TOPOLOGIES))
    raise InputError(
        f"GKE has no accelerator {args.accelerator!r}: choose {' or '.join(_TPUS)} and a number of "
        f"chips ({slices}), as in v5e-8, or {', '.join(_GPUS)} and a number of GPUs, as in h100-8"
    )


def _escaped(text: str) -> str:
    """Escapes a command of a container, because Kubernetes replaces $(VARIABLE)."""
    return re.sub(r"\$(?=[$(])", "$$", text)


def _job_set(point: Point, args: argparse.Namespace) -> dict:
    selector, limits, hosts = _accelerator(args)
    if args.spot:
        selector = selector | {"cloud.google.com/gke-spot": "true"}
    name = point.label
    # exec replaces the shell, which would not forward SIGTERM.
    command = shlex.join(["exec", "python3", *point.arguments_in_a_copy])
    check_unicode(command)
    if hosts > 1 and "nvidia.com/gpu" in limits:
        # Hosts of a TPU slice find each other; hosts with GPUs need flags.
        command += (
            f" --coordinator={name}-worker-0-0.{name}:{_PORT} --processes={hosts}"
            ' --process="$JOB_COMPLETION_INDEX"'
        )
    command = f"{args.setup}\n{command}" if args.setup else command
    container = {
        "name": "train",
        "image": args.image,
        "command": ["bash", "-c", _escaped(command)],
        "resources": {"limits": limits},
        "volumeMounts": [{"name": "runs", "mountPath": str(point.directory)}],
    }
    pod = {
        "restartPolicy": "Never",
        "nodeSelector": selector,
        # GKE taints nodes with accelerators.
        "tolerations": [{"key": next(iter(limits)), "operator": "Exists"}],
        # Time to save a checkpoint after SIGTERM.
        "terminationGracePeriodSeconds": 120,
        "containers": [container],
        "volumes": [{"name": "runs", "persistentVolumeClaim": {"claimName": args.claim}}],
    }
    job = {
        "parallelism": hosts,
        "completions": hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        # A wrong command (2) or a failed run (4) would fail again.
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "train", "operator": "In", "values": [2, 4]},
                }
            ]
        },
        "template": {"spec": pod},
    }
    failure_policy = {
        "maxRestarts": _RESTARTS,
        "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
    }
    metadata = {"name": name, "annotations": {"densenet-jax/point": point.name}}
    if args.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": args.queue}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": failure_policy,
            "replicatedJobs": [{"name": "worker", "replicas": 1, "template": {"spec": job}}],
        },
    }
