"""Measure a training step of DenseNet and of reference implementations on this machine.

    python -m launch.benchmark --model densenet_bc_k12_d100 --against torch,jax-naive

A step is forward, backward and SGD with Nesterov momentum on one device. Images have 32 x 32
pixels, or 224 x 224 for an ImageNet network. The peers are:

  xla                    ours with --block xla, to compare with --block kernels
  jax-naive              the network as one would write it in Flax from the paper
  torch                  PyTorch, eager
  torch-checkpointed     torch with concatenation, BN, ReLU and 1x1 convolution rematerialised
  torch-compiled         torch, compiled by torch.compile
  torch-graphs           torch-compiled with mode="reduce-overhead", which uses CUDA graphs on a GPU
  torchvision            torchvision's DenseNet-121, 161, 169 or 201, eager
  torchvision-efficient  torchvision with memory_efficient=True

"ours" and its peers are the contestants. Each contestant compiles and warms up in a separate
process, then trains for a number of rounds. The step time is the median over rounds. All
contestants run on the platform on which JAX runs.

On an accelerator each contestant runs all its rounds before the next contestant starts. The memory
of JAX is the compiler's total for a dispatch. The memory of PyTorch is its peak since warm-up. The
column "peak MB" is the peak of the whole process, which includes autotuning. On NVIDIA GPUs float32
convolutions use TF32 in JAX and in PyTorch, the default of both.

On CPU the contestants alternate, so that other load slows all of them alike. The machine should
still be idle: a busy core slows PyTorch, whose threads wait for each other all the time, far more
than JAX. The report warns if the machine was busy.

    python -m launch.benchmark accuracy
    python -m launch.benchmark augment
    python -m launch.benchmark input
    python -m launch.benchmark predict

measure training up to a test error, RandAugment and TrivialAugment, the stream of pictures for
training, and the classification of pictures; see their --help.
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
from launch.benchmark import accuracy, augmentation, contestants, input_stream, prediction
from launch.benchmark.plot import plot_memory_and_time
from launch.benchmark.torch_runners import COMPILE_MODES
from launch.benchmark.workload import (
    ACCELERATOR_STEPS,
    CPU_STEPS,
    TORCHVISION_NETWORKS,
    TORCHVISION_PEERS,
    Workload,
)

OTHERS = {
    "accuracy": accuracy,
    "augment": augmentation,
    "input": input_stream,
    "predict": prediction,
}
PEERS = ("xla", "jax-naive", "torch", "torch-checkpointed", *COMPILE_MODES, *TORCHVISION_PEERS)


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] and argv[0] in OTHERS:
        OTHERS[argv[0]].main(argv[1:])
        return
    args = _parser().parse_args(argv)
    names = ["ours", *_peers(args)]
    workloads = _workloads(args)
    out = _directory(args.out)
    load = os.getloadavg()[0]
    backend = contestants.platform()
    workloads = [dataclasses.replace(workload, platform=backend) for workload in workloads]
    results: list[dict] = []
    for workload in workloads:
        for new in contestants.measure(names, workload, args.rounds, args.time_limit):
            report = _report(args, argv, workload, load, results + new)
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
    add("--model", required=True, metavar="NAME", help="a DenseNet of the catalogue")
    add(
        "--against",
        default="torch,jax-naive",
        metavar="PEERS",
        help="see above (default: %(default)s)",
    )
    add(
        "--batch_size",
        type=int,
        default=64,
        metavar="N",
        help="images per step (default: %(default)s)",
    )
    add("--dtype", default="float32", help="float32 or bfloat16 (default: %(default)s)")
    add("--remat", default="concat", help="none, concat or layer, for ours (default: %(default)s)")
    add(
        "--block",
        default="auto",
        metavar="FORM",
        help="form of the dense blocks of ours: xla, kernels, or auto, which is the form of "
        "launch.train (default: %(default)s)",
    )
    add(
        "--steps",
        type=int,
        metavar="N",
        help=f"steps per round (default: {CPU_STEPS} on CPU, {ACCELERATOR_STEPS} elsewhere)",
    )
    add(
        "--rounds",
        type=int,
        default=5,
        metavar="N",
        help="rounds per contestant (default: %(default)s)",
    )
    add(
        "--time_limit",
        type=float,
        default=600,
        metavar="SECONDS",
        help="stop a contestant whose start or round takes longer, and report it as failed "
        "(default: %(default)s)",
    )
    add(
        "--depths",
        metavar="L,L,...",
        help="depths to measure instead of the model's depth; not for ImageNet networks",
    )
    add(
        "--out",
        metavar="DIR",
        help="directory for benchmark.json, memory_and_time.png and memory_and_time.svg; "
        "benchmark.json is updated after each contestant on an accelerator and after each round "
        "on CPU, so that an interrupted benchmark keeps its results",
    )
    add("--json", action="store_true", help="print one JSON object at the end")
    return parser


def _peers(args: argparse.Namespace) -> list[str]:
    names = list(dict.fromkeys(filter(None, args.against.split(","))))
    for name in names:
        if name not in PEERS:
            raise InputError(f"there is no peer {name!r}: {suggest(name, PEERS)}")
    if not set(TORCHVISION_PEERS).isdisjoint(names) and args.model not in TORCHVISION_NETWORKS:
        raise InputError(
            f"torchvision has no {args.model!r}: {suggest(args.model, TORCHVISION_NETWORKS)}"
        )
    return names


def _workloads(args: argparse.Namespace) -> list[Workload]:
    """Returns one workload for each depth. Raises InputError for impossible flags."""
    if args.rounds < 1:
        raise InputError(f"rounds is {args.rounds}: it must be at least 1")
    if not 0 < args.time_limit <= threading.TIMEOUT_MAX:
        raise InputError(f"time_limit is {args.time_limit:g}: it must be a finite number above 0")
    depths: list[int | None] = [None]
    if args.depths:
        try:
            depths = [*sorted({int(depth) for depth in args.depths.split(",")})]
        except ValueError as error:
            raise InputError(f"depths is {args.depths!r}: give numbers, as in 40,100") from error
    return [
        Workload(
            model=args.model,
            depth=depth,
            batch_size=args.batch_size,
            dtype=args.dtype,
            remat=args.remat,
            block=args.block,
            steps=args.steps,
        )
        for depth in depths
    ]


def _directory(path: str | None) -> Path | None:
    if path is None:
        return None
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}") from error
    return Path(path)


def _report(
    args: argparse.Namespace,
    argv: list[str],
    workload: Workload,
    load: float,
    results: list[dict],
) -> dict:
    return {
        "model": args.model,
        "batch_size": args.batch_size,
        "image_size": workload.image_size,
        "dtype": args.dtype,
        "remat": args.remat,
        "block": args.block,
        "backend": workload.platform,
        "steps": workload.steps_per_round,
        "rounds": _completed_rounds(results),
        "command": f"python -m launch.benchmark {shlex.join(argv)}",
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "load_average_before": load,
        "packages": versions(*PACKAGES, "torch", "torchvision"),
        "results": results,
    }


def _completed_rounds(results: list[dict]) -> int:
    """Returns how many rounds every contestant without an error has completed."""
    counts = [len(result["round_seconds"]) for result in results if "error" not in result]
    return min(counts, default=0)


COLUMNS = (
    *("", "L", "ms/step", "from", "to", "images/s", "x ours"),
    *("memory MB", "x ours", "peak MB", "compile s"),
)


def table(report: dict) -> str:
    """Returns all measurements as aligned text.

    "x ours" is the number in the column before it, divided by the number of "ours". "from" is the
    fastest round, "to" the slowest.
    """
    rows = [list(COLUMNS)]
    rows += [_cells(result) for result in report["results"]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ends = ["device", *(r.get("device") or f"failed: {r['error']}" for r in report["results"])]
    lines = [
        f"{report['model']}: a training step on {counted(report['batch_size'], 'image')} of "
        f"{report['image_size']} x {report['image_size']}, {report['dtype']}, remat "
        f"{report['remat']}, block {report['block']}; median of "
        f"{counted(report['rounds'], 'round')} of {counted(report['steps'], 'step')}; images/s "
        "counts training alone"
    ]
    for (name, *cells), end in zip(rows, ends, strict=True):
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *aligned, end]))
    kinds = {r["contestant"]: r["memory_kind"] for r in report["results"] if "error" not in r}
    lines += [f"memory of {name}: {kind}" for name, kind in kinds.items()]
    return "\n".join(lines + _warnings(report))


def _warnings(report: dict) -> list[str]:
    """Returns the signs that the machine was not idle."""
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
