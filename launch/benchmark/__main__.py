"""Measure a training step of our network and of its peers on this machine.

    python -m launch.benchmark --model densenet_bc_k12_d100 --against torch,jax-naive

A step is forward, backward and SGD with Nesterov momentum, on images of 32 x 32 pixels, or of
224 x 224 for an ImageNet network, on one device. Peers:

  jax-naive              the network as one would write it in Flax from the paper
  torch                  PyTorch, eager
  torch-checkpointed     the same, computing concatenation, BN, ReLU and 1x1 convolution again
  torch-compiled         the network of torch, compiled by torch.compile
  torch-graphs           the same with mode="reduce-overhead": CUDA graphs, if there is a GPU
  torchvision            torchvision's DenseNet-121, 161, 169 or 201, eager
  torchvision-efficient  the same with memory_efficient=True

Each contestant compiles and warms up in a process of its own, then trains for a number of rounds.
The time of a step is the median over rounds. All contestants run where JAX runs.

On an accelerator each contestant does all its rounds alone, then the next one starts. The memory of
JAX is the compiler's total for a dispatch; that of PyTorch is its peak since warm-up. The peak
beside it is that of the whole process, in which autotuning may have taken more. On NVIDIA GPUs
float32 convolutions use TF32 in JAX and in PyTorch, the default of both.

On CPU the contestants take turns, so that other load slows all of them alike. The machine should
still be idle: a busy core slows PyTorch, whose threads wait for each other all the time, far more
than JAX. The report warns if it was not.

    python -m launch.benchmark accuracy
    python -m launch.benchmark input
    python -m launch.benchmark predict

measure training until an accuracy is reached, the stream of pictures for training, and the
classification of pictures; see their --help.
"""

import argparse
import dataclasses
import json
import os
import platform
import shlex
import sys
import threading
from pathlib import Path

from densenet_jax.errors import InputError, counted, suggest
from densenet_jax.files import write_durably
from densenet_jax.train.record import PACKAGES, versions
from launch import command
from launch.benchmark import accuracy, input, predict, turns
from launch.benchmark.job import (
    ACCELERATOR_STEPS,
    CPU_STEPS,
    TORCHVISION_NETWORKS,
    TORCHVISION_PEERS,
    Job,
)
from launch.benchmark.plot import plot_memory_and_time
from launch.benchmark.torch_runners import COMPILE_MODES

OTHERS = {"accuracy": accuracy, "input": input, "predict": predict}
PEERS = ("jax-naive", "torch", "torch-checkpointed", *COMPILE_MODES, *TORCHVISION_PEERS)


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] and argv[0] in OTHERS:
        OTHERS[argv[0]].main(argv[1:])
        return
    args = _parser().parse_args(argv)
    names = ["ours", *_peers(args)]
    jobs = _jobs(args)
    out = _folder(args.out)
    load = os.getloadavg()[0]
    backend = turns.platform()
    jobs = [dataclasses.replace(job, platform=backend) for job in jobs]
    results = []
    for job in jobs:
        for new in turns.measure(names, job, args.rounds, args.time_limit):
            report = _report(args, argv, job, load, results + new)
            if out:
                write_durably(out / "benchmark.json", json.dumps(report, indent=2) + "\n")
        results += new
    print(table(report))
    if out:
        plot_memory_and_time(report, out)
    if args.json:
        print(json.dumps(report))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m launch.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="NAME", help="a network of the catalogue")
    add("--against", default="torch,jax-naive", metavar="PEERS", help="(%(default)s)")
    add("--batch_size", type=int, default=64, metavar="N", help="images a step (%(default)s)")
    add("--dtype", default="float32", help="float32 or bfloat16 (%(default)s)")
    add("--remat", default="concat", help="of ours: none, concat or layer (%(default)s)")
    add(
        "--steps",
        type=int,
        metavar="N",
        help=f"steps a turn ({CPU_STEPS} on CPU, {ACCELERATOR_STEPS} on an accelerator)",
    )
    add("--rounds", type=int, default=5, metavar="N", help="turns of each (%(default)s)")
    add(
        "--time_limit",
        type=float,
        default=600,
        metavar="SECONDS",
        help="end a contestant that takes longer to get ready or for a turn, and report it as "
        "failed (%(default)s)",
    )
    add(
        "--depths",
        metavar="L,L,...",
        help="measure at each of these depths instead of the model's; not for ImageNet networks",
    )
    add(
        "--out",
        metavar="DIR",
        help="write benchmark.json, memory_and_time.png and memory_and_time.svg there; "
        "benchmark.json is written again after each contestant on an accelerator and after each "
        "round on CPU, so that an interrupted benchmark keeps its results",
    )
    add("--json", action="store_true", help="print one JSON object, last")
    return parser


def _peers(args) -> list[str]:
    names = list(dict.fromkeys(filter(None, args.against.split(","))))
    for name in names:
        if name not in PEERS:
            raise InputError(f"there is no peer {name!r}: {suggest(name, PEERS)}")
    if not set(TORCHVISION_PEERS).isdisjoint(names) and args.model not in TORCHVISION_NETWORKS:
        raise InputError(
            f"torchvision has no {args.model!r}: {suggest(args.model, TORCHVISION_NETWORKS)}"
        )
    return names


def _jobs(args) -> list[Job]:
    """One job a depth. Raises InputError for what any of them refuses."""
    if args.rounds < 1:
        raise InputError(f"rounds is {args.rounds}: it must be at least 1.")
    if not 0 < args.time_limit <= threading.TIMEOUT_MAX:
        raise InputError(f"time_limit is {args.time_limit:g}: it must be a finite number above 0.")
    try:
        depths = [int(depth) for depth in args.depths.split(",")] if args.depths else [None]
    except ValueError as error:
        raise InputError(f"depths is {args.depths!r}: give numbers, as in 40,100.") from error
    return [
        Job(args.model, depth, args.batch_size, args.dtype, args.remat, args.steps)
        for depth in sorted(set(depths))
    ]


def _folder(path: str | None) -> Path | None:
    if path is None:
        return None
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}.") from error
    return Path(path)


def _report(args, argv: list[str], job: Job, load: float, results: list[dict]) -> dict:
    return {
        "model": args.model,
        "batch_size": args.batch_size,
        "image_size": job.image_size,
        "dtype": args.dtype,
        "remat": args.remat,
        "backend": job.platform,
        "steps": job.turn_steps,
        "rounds": args.rounds,
        "command": f"python -m launch.benchmark {shlex.join(argv)}",
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "load_average_before": load,
        "packages": versions(*PACKAGES, "torch", "torchvision"),
        "results": results,
    }


COLUMNS = (
    *("", "L", "ms/step", "from", "to", "images/s", "x ours"),
    *("memory MB", "x ours", "peak MB", "compile s"),
)


def table(report: dict) -> str:
    """Everything measured, as aligned text; "x ours" is the number before it over ours.

    "from" and "to" are the fastest round and the slowest.
    """
    rows = [list(COLUMNS)]
    rows += [_cells(result) for result in report["results"]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ends = ["device", *(r.get("device") or f"failed: {r['error']}" for r in report["results"])]
    lines = [
        f"{report['model']}: a training step on {counted(report['batch_size'], 'image')} of "
        f"{report['image_size']} x {report['image_size']}, {report['dtype']}, remat "
        f"{report['remat']}; median of {counted(report['rounds'], 'round')} of "
        f"{counted(report['steps'], 'step')}"
    ]
    for (name, *cells), end in zip(rows, ends, strict=True):
        cells = map(str.rjust, cells, widths[1:])
        lines.append("  ".join([name.ljust(widths[0]), *cells, end]))
    kinds = {r["contestant"]: r["memory_kind"] for r in report["results"] if "error" not in r}
    lines += [f"memory of {name}: {kind}" for name, kind in kinds.items()]
    return "\n".join(lines + _doubts(report))


def _doubts(report: dict) -> list[str]:
    """Why the times may not be those of an idle machine."""
    load = report["load_average_before"]
    lines = [f"the machine was not idle before: load average {load:.1f}"] if load > 0.5 else []
    for result in report["results"]:
        rounds = result.get("round_seconds", [1])
        if max(rounds) > 1.5 * min(rounds):
            lines.append(
                f"rounds of {result['contestant']}, L={result['depth']}, differ by a factor of "
                f"{max(rounds) / min(rounds):.1f}: was the machine idle?"
            )
    return lines


def _cells(result: dict) -> list[str]:
    start = [result["contestant"], str(result["depth"])]
    if "error" in result:
        return start + (len(COLUMNS) - len(start)) * [""]
    rounds = result["round_seconds"]
    times = [1000 * s for s in (result["step_seconds"], min(rounds), max(rounds))]
    speed = [*(f"{ms:,.2f}" for ms in times), f"{result['images_per_second']:,.1f}"]
    step, memory = (
        f"{result[key]:.2f}" if key in result else "-" for key in ("step_ratio", "memory_ratio")
    )
    taken, peak = (
        "-" if result[key] is None else f"{result[key] / 1e6:,.1f}"
        for key in ("memory_bytes", "peak_bytes")
    )
    return [*start, *speed, step, taken, memory, peak, f"{result['compile_seconds']:.1f}"]


if __name__ == "__main__":
    sys.exit(command.run(main))
