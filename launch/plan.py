"""Report the memory and the cost of a training step on hardware that need not be present.

    python -m launch.plan --config experiments/synthetic.py:densenet121 --target h100

Compiles the training program for the target, with many steps per dispatch. Reports for one device
the memory, the largest batch that fits, and the cost. The command trains nothing and reads no data.
The row "dense blocks" has the form of the dense blocks, xla or kernels, and the reason.

For GPUs the report also estimates the step from the compiled program:
  * number of kernels and of launches, with convolutions in CUDA graphs, as in `launch.train`, and
    without
  * megabytes of memory traffic per image, and the floor: the traffic if everything were fused
  * microseconds per step and images/s, if each kernel takes at least 2 us (in a CUDA graph) or
    4.5 us (launched one by one) and is otherwise limited by memory or arithmetic. Both times are
    lower bounds: on an H100 steps took 1.7 to 2.4 times as long
  * for each of these times, the time of the floor as a percentage
  * the most expensive places in the network
For TPUs the estimate has kernels, collectives and places, in cycles that the compiler estimates.
--json prints the estimate under "estimate".

The search for the largest batch compiles up to eight more programs; --this_batch skips the search.
The compilers for GPU and TPU run on any machine. A compiler that this environment lacks runs in a
separate environment. The target `analytic` compiles nothing and reports counts only.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax

from densenet_jax.analysis import targets
from densenet_jax.analysis.plan import analyse, max_batch, plan
from densenet_jax.data.places import cache_directory
from densenet_jax.errors import InputError, counted
from launch import command
from launch.paths import ROOT, typed_path

# Shortest time of a GPU kernel, see `roofline.estimate`.
_KERNEL_TIMES = {
    "captured": "at 2 us per kernel",
    "launched": "at 4.5 us per kernel",
}


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    parser = command.parser(__doc__, with_config=True)
    parser.add_argument(
        "--target",
        default="cpu",
        metavar="NAME",
        help=f"one of {', '.join((targets.ANALYTIC, *targets.NAMES))} (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=typed_path,
        metavar="DIR",
        help="write the plan to DIR/plan.json, which launch.report reads",
    )
    parser.add_argument(
        "--this_batch", action="store_true", help="skip the search for the largest batch that fits"
    )
    parser.add_argument(
        "--json", action="store_true", help="also print a JSON object, as the last line"
    )
    compiler = str(_environment("PLATFORM") / "bin" / "python").replace("%", "%%")
    parser.add_argument(
        "--compiler",
        type=typed_path,
        metavar="PYTHON",
        help="a Python whose environment has the target's compiler (default: this Python, or "
        f"{compiler} if this Python lacks the compiler)",
    )
    args, overrides = parser.parse_known_args(argv)
    config = command.load_config(args.config, overrides)
    if args.target == targets.ANALYTIC:
        _write(analyse(config), _analytic_table, args)
        return
    target = targets.find_target(args.target)
    if not _ready(target):
        _run_elsewhere(target, args.compiler, argv)
        return
    # JAX cannot load cached programs for absent devices, and warns about each program.
    command.use_compile_cache(args.compile_cache if target.platform == "cpu" else "off")
    found = plan(config, target)
    if not args.this_batch:
        found["max_batch"] = max_batch(config, target, _log, found)
    _write(found, _table, args)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write(found: dict, table: Callable[[dict], str], args: argparse.Namespace) -> None:
    print(table(found))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "plan.json").write_text(json.dumps(found))
    if args.json:
        print(json.dumps(found))


def _ready(target: targets.Target) -> bool:
    """Checks whether this process can compile for `target`."""
    variables = target.environment.items()
    return target.compiler_is_installed() and all(os.environ.get(k) == v for k, v in variables)


def _environment(platform: str) -> Path:
    """Returns the directory of the environment for the compiler of `platform`."""
    return (cache_directory() or Path(tempfile.gettempdir())) / "compilers" / platform


def _run_elsewhere(target: targets.Target, python: Path | None, argv: list[str]) -> None:
    """Runs this command in a new process, whose environment can compile for `target`."""
    environment = _environment(target.platform)
    if not python:
        python = environment / "bin" / "python"
        if target.compiler_is_installed():
            python = Path(sys.executable)
    if not python.is_file():
        extra = targets.EXTRAS[target.platform]
        raise InputError(
            f"the compiler for {target.name} is not installed: create an environment for it with "
            f"{sys.executable} -m venv {environment} && {environment}/bin/pip install "
            f"'jax[{extra}]=={jax.__version__}' -e {ROOT}"
        )
    variables = os.environ | target.environment | {"DENSENET_JAX_PLANNER": "1"}
    if "DENSENET_JAX_PLANNER" in os.environ:
        raise InputError(
            f"{python} has no compiler for {target.name}: install it there, or correct --compiler"
        )
    done = subprocess.run([python, "-m", "launch.plan", *argv], env=variables)
    if done.returncode:
        sys.exit(done.returncode)


def _table(found: dict) -> str:
    memory, limit = found["memory"], found["memory_limit_bytes"]
    chips = f"{found['chips']} x " if found["chips"] > 1 else ""
    rows = [
        ("network", f"{found['model']}, remat {found['remat']}, {found['dtype']}"),
        *_block_row(found),
        ("target", f"{chips}{found['target']}, jax {found['jax']}"),
        ("parameters", f"{found['params']:,}"),
        ("multiply-adds per image", f"{found['macs']:,}"),
    ]
    for kind in ("temp", "argument", "output", "generated_code", "total"):
        value = f"{memory[f'{kind}_bytes'] / 1e9:.3f} GB" if memory else "more than the device has"
        rows.append((f"memory: {kind.replace('_', ' ')}", value))
    rows += [
        ("usable memory", f"{limit / 1e9:.1f} GB"),
        ("fits", f"{'yes' if found['fits'] else 'no'}, with a batch of {found['batch_size']}"),
        ("largest batch that fits", f"{found['max_batch']:,}" if "max_batch" in found else "-"),
        ("operations*", _number(found["flops"], "FLOP")),
        ("memory traffic*", _number(found["bytes_accessed"], "bytes")),
        ("estimated cycles", _number(found["estimated_cycles"], "")),
        ("upper bound, all chips", _number(found["most_images_per_second"], "images/s")),
        (f"lower bound, {counted(found['epochs'], 'epoch')}", _hours(found["least_hours"])),
        *(
            (f"exchanged: {kind}*", _number(exchanged, "bytes"))
            for kind, exchanged in (found["collective_bytes"] or {}).items()
        ),
    ]
    lines = [f"{name:26}{value}" for name, value in rows]
    lines.append("* as the compiler counts: the body of a loop, as in a ResNet, counts once")
    return "\n".join(lines + (_estimate_lines(found["estimate"]) if found["estimate"] else []))


def _estimate_lines(estimate: dict) -> list[str]:
    kernels = f"{estimate['kernels']:,}"
    if estimate["launches"]:
        kernels += (
            f", launches {estimate['launches_all_captured']:,} "
            f"({estimate['launches']:,} without convolutions in CUDA graphs)"
        )
    floor = f"{estimate['floor_mb_an_image']:.1f} MB per image"
    rows = [("kernels per step", kernels), ("collectives per step", f"{estimate['collectives']:,}")]
    if estimate["times"]:
        rows.append(("memory traffic", f"{estimate['mb_an_image']:.1f} MB per image"))
        floor += f", {estimate['floor_us']:,.0f} us per step"
    rows.append(("floor, all fused", floor))
    for name, time in (estimate["times"] or {}).items():
        speed = f"{time['us']:,.0f} us per step, {time['images_per_second']:,.0f} images/s"
        rows.append(
            (_KERNEL_TIMES[name], f"{speed}, {time['floor_share']:.0%} of the floor's speed")
        )
    if estimate["cycles"]:
        rows.append(("cycles per step", f"{estimate['cycles']:,}"))
    unit = "cycles" if estimate["cycles"] else "us"
    traffic = "MB" if estimate["times"] else ""
    return [
        "",
        "estimate for one step on one device",
        *(f"{name:26}{value}" for name, value in rows),
        f"{'costliest':32}{unit:>12}{'kernels':>10}{traffic:>10}",
        *(
            f"{row['origin']:32}{row[unit]:12,.0f}{row['kernels']:10,}"
            + (f"{row['mb']:10,.1f}" if traffic else "")
            for row in estimate["origins"]
        ),
    ]


def _analytic_table(found: dict) -> str:
    memory = found["memory"]
    rows = [
        ("network", f"{found['model']}, remat {found['remat']}, {found['dtype']}"),
        *_block_row(found),
        ("parameters", f"{found['params']:,}"),
        ("multiply-adds per image", f"{found['macs']:,}"),
        ("batch", f"{found['batch_size']:,}"),
        *(
            (f"memory: {kind.removesuffix('_bytes')}", f"{size / 1e9:.3f} GB")
            for kind, size in memory.items()
        ),
    ]
    return "\n".join(f"{name:26}{value}" for name, value in rows)


def _block_row(found: dict) -> list[tuple[str, str]]:
    """Returns the row with the form of the dense blocks; none for networks without them."""
    form, reason = found["block"], found["block_reason"]
    return [("dense blocks", f"{form} ({reason})" if form else reason)] if reason else []


def _hours(hours: float | None) -> str:
    return "-" if hours is None else f"{hours:,.1f} hours"


def _number(value: float | None, unit: str) -> str:
    return "not reported by this compiler" if value is None else f"{value:,.0f} {unit}".rstrip()


if __name__ == "__main__":
    sys.exit(command.run(main))
