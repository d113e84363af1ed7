"""Connects the processes of one run on several hosts."""

import argparse
import importlib.util
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import jax

from densenet_jax import jax_private
from densenet_jax.errors import INTERRUPTED_STATUS, InputError
from launch import peers


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `join` reads."""
    group = parser.add_argument_group(
        "several hosts",
        "Under Slurm's srun and on TPU pods, processes find each other without flags.\n"
        "Elsewhere, start the same command on each host with --coordinator, --processes and "
        "--process.",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of the first process")
    group.add_argument("--processes", type=int, metavar="N", help="number of processes")
    group.add_argument("--process", type=int, metavar="I", help="index of this process, from 0")
    group.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait for a process that does not start or does not answer, before this "
        f"process ends with status {INTERRUPTED_STATUS} (default: %(default)g)",
    )


def join(args: argparse.Namespace) -> None:
    """Connects this process to the other processes of its run, if there are any.

    Must run before JAX initialises its devices.
    """
    given = [value is not None for value in (args.coordinator, args.processes, args.process)]
    if any(given) and not all(given):
        raise InputError(
            "--coordinator, --processes and --process must be set together: set all or none"
        )
    if not 0 < args.timeout < math.inf:
        raise InputError(f"--timeout is {args.timeout:g}: set it to a positive number of seconds")
    # Only the CPU backend needs a choice: other backends have one implementation of collectives.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if all(given):
        port = re.search(r".:(\d+)$", args.coordinator)
        if not port or not 0 < int(port[1]) < 2**16:
            raise InputError(f"--coordinator is {args.coordinator!r}: write it as HOST:PORT")
        if not 0 <= args.process < args.processes:
            raise InputError(
                f"--process is {args.process} of --processes {args.processes}: it must be at least "
                "0 and less than --processes"
            )
        peers.join(args.coordinator, args.processes, args.process, args.timeout)
    elif (_slurm_number(os.environ, "SLURM_STEP_NUM_TASKS") or 1) > 1:
        gpus = gpus_of_slurm_task(os.environ)
        try:
            found = jax_private.detect_cluster(gpus)
            if found.address is None or found.processes is None or found.process is None:
                raise LookupError("variables such as SLURM_PROCID are missing")
        except (LookupError, ValueError) as error:
            raise InputError(
                f"SLURM_STEP_NUM_TASKS is {os.environ['SLURM_STEP_NUM_TASKS']}, but JAX cannot "
                f"find the other processes ({error}): start under srun, or unset it"
            ) from error
        peers.join(found.address, found.processes, found.process, args.timeout, found.devices)
    elif _is_tpu_host():
        timeout = math.ceil(args.timeout)
        jax.distributed.initialize(
            initialization_timeout=timeout, heartbeat_timeout_seconds=timeout
        )


def gpus_of_slurm_task(environment: Mapping[str, str]) -> list[int] | None:
    """Returns all GPUs of the node if it runs one task, else None: JAX assigns one to each task."""
    tasks, nodes, gpus = (
        _slurm_number(environment, f"SLURM_{name}")
        for name in ("STEP_NUM_TASKS", "STEP_NUM_NODES", "GPUS_ON_NODE")
    )
    return list(range(gpus)) if gpus and tasks == nodes else None


def _slurm_number(environment: Mapping[str, str], name: str) -> int | None:
    """Reads 8 from "8" or "gpu:8"; returns None if the variable is unset or empty."""
    text = environment.get(name, "")
    number = text.rpartition(":")[2]
    if text and not number.isdecimal():
        raise InputError(f"{name} is {text!r}, not a number: unset it, or start under srun")
    return int(number) if text else None


def _is_tpu_host() -> bool:
    """Checks whether this host has TPUs. JAX itself detects whether the host is part of a pod."""
    allowed = (os.environ.get("JAX_PLATFORMS") or "tpu").startswith("tpu")
    devices = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")]
    return allowed and bool(devices) and importlib.util.find_spec("libtpu") is not None
