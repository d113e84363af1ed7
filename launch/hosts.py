"""The processes of one run on several hosts: how they find one another."""

import argparse
import importlib.util
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import jax
from jax._src.clusters import ClusterEnv

from densenet_jax.errors import INTERRUPTED_STATUS, InputError
from launch import peers


def add_flags(described: argparse.ArgumentParser) -> None:
    """Adds the flags of runs on several hosts, for `join`."""
    group = described.add_argument_group(
        "several hosts",
        "Under Slurm's srun and on TPU pods processes find one another. Elsewhere start the same "
        "command on each host, with these:",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of the first process")
    group.add_argument("--processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process", type=int, metavar="I", help="which this one is, from 0")
    group.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait for a process that does not come, or that no longer answers, before "
        f"this one ends with status {INTERRUPTED_STATUS} (%(default)g)",
    )


def join(args: argparse.Namespace) -> None:
    """Joins the other processes of this run, if there are any; before JAX looks for devices."""
    address = (args.coordinator, args.processes, args.process)
    given = [value is not None for value in address]
    if any(given) and not all(given):
        raise InputError("--coordinator, --processes and --process go together: give all or none")
    if not 0 < args.timeout < math.inf:
        raise InputError(f"--timeout is {args.timeout:g}: give a positive number of seconds")
    # Of collectives on CPU; other backends have their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if all(given):
        port = re.search(r".:(\d+)$", args.coordinator)
        if not port or not 0 < int(port[1]) < 2**16:
            raise InputError(f"--coordinator is {args.coordinator!r}: give it as HOST:PORT")
        if not 0 <= args.process < args.processes:
            raise InputError(
                f"--process is {args.process} of --processes {args.processes}: it must be at least "
                "0 and less than --processes"
            )
        peers.join(*address, args.timeout)
    elif (_slurm_number(os.environ, "SLURM_STEP_NUM_TASKS") or 1) > 1:
        gpus = gpus_of_slurm_task(os.environ)
        try:
            *address, gpus = ClusterEnv.auto_detect_unset_distributed_params(
                None, None, None, gpus, None, None
            )
            if None in address:
                raise LookupError("variables such as SLURM_PROCID are missing")
        except (LookupError, ValueError) as error:
            raise InputError(
                f"SLURM_STEP_NUM_TASKS is {os.environ['SLURM_STEP_NUM_TASKS']}, but JAX cannot "
                f"find the other processes ({error}): start under srun, or unset it"
            ) from error
        peers.join(*address, args.timeout, gpus)
    elif _is_tpu_host():
        timeout = math.ceil(args.timeout)
        jax.distributed.initialize(
            initialization_timeout=timeout, heartbeat_timeout_seconds=timeout
        )


def gpus_of_slurm_task(environment: Mapping[str, str]) -> list[int] | None:
    """All GPUs of the node, if a task has the node alone; None leaves it to JAX: one for each."""
    tasks, nodes, gpus = (
        _slurm_number(environment, f"SLURM_{name}")
        for name in ("STEP_NUM_TASKS", "STEP_NUM_NODES", "GPUS_ON_NODE")
    )
    return list(range(gpus)) if gpus and tasks == nodes else None


def _slurm_number(environment: Mapping[str, str], name: str) -> int | None:
    """Reads 8 of "8", or of "gpu:8"; None if the variable is unset or empty."""
    text = environment.get(name, "")
    number = text.rpartition(":")[2]
    if text and not number.isdecimal():
        raise InputError(f"{name} is {text!r}, not a number: unset it, or start under srun")
    return int(number) if text else None


def _is_tpu_host() -> bool:
    """Whether this host has TPUs, alone or together with others: JAX asks its metadata which."""
    wanted = (os.environ.get("JAX_PLATFORMS") or "tpu").startswith("tpu")
    devices = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")]
    return wanted and bool(devices) and importlib.util.find_spec("libtpu") is not None
