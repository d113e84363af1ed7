"""Measure the stream of pictures for training on ImageNet alone, against PyTorch's DataLoader.

    python -m launch.benchmark input

Reads, decodes, crops and flips the same JPEGs for a number of cores, in turns, each in a process of
its own that may use those cores only:

  ours            threads, as on hosts of up to four cores
  ours-processes  a process for each core, as on larger hosts
  torch           DataLoader, a worker for each core; Pillow's random crops and flips
  torch-colors    the same with colour jitter, light and normalisation, which with us devices do

The transforms are torchvision's, operation by operation. Rates are medians over rounds, once all
workers are at work. Without --data_directory the pictures are parts of two photographs, in sizes as
ImageNet's. The machine should be idle.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from densenet_jax.data import imagenet, workers
from densenet_jax.errors import InputError, RunError, counted, suggest
from launch import command
from launch.paths import typed_path

CONTESTANTS = ("ours", "ours-processes", "torch", "torch-colors")
ROOT = Path(__file__).parents[2]
# Width and height, the first two most often. ImageNet's pictures have 400 x 350 in the mean.
_SIZES = (
    (500, 375),
    (375, 500),
    (500, 333),
    (500, 375),
    (640, 480),
    (300, 225),
    (500, 375),
    (800, 600),
)


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__, compiles=False)
    parser.add_argument("--against", default="torch,torch-colors", metavar="PEERS")
    parser.add_argument(
        "--data_directory", type=typed_path, metavar="DIR", help="ImageNet, in any form"
    )
    parser.add_argument("--pictures", type=int, default=400, metavar="N", help="(%(default)s)")
    parser.add_argument("--images", type=int, default=2000, metavar="N",
                        help="to make in a turn (%(default)s)")  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=64, metavar="N", help="(%(default)s)")
    parser.add_argument("--cores", metavar="N,N,...", help="(1, 2, 4 and so on, to all)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="print a JSON object, last")
    args = parser.parse_args(argv)
    peers = [name for name in args.against.split(",") if name]
    for name in peers:
        if name not in CONTESTANTS:
            raise InputError(f"there is no contestant {name!r}: {suggest(name, CONTESTANTS)}")
    for key in ("pictures", "images", "batch_size", "rounds"):
        if getattr(args, key) < 1:
            raise InputError(f"--{key} is {getattr(args, key)}: it must be at least 1.")
    if importlib.util.find_spec("torch") is None and any(
        name.startswith("torch") for name in peers
    ):
        raise InputError("torch is not installed: pip install 'densenet_jax[bench]'")
    names = list(dict.fromkeys(["ours", "ours-processes", *peers]))
    with tempfile.TemporaryDirectory() as folder:
        directory = args.data_directory
        if directory is None:
            directory = Path(folder)
            write_pictures(directory, args.pictures)
        imagenet.find(directory)
        found = [_measure(names, directory, cores, args) for cores in _cores(args.cores)]
    print(_table(found, args))
    if args.json:
        print(json.dumps(found))


def write_pictures(folder: Path, count: int) -> None:
    """A set in ImageNet's folders, of which every tenth picture is for validation."""
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    classes = list(imagenet.classes())
    for i in range(count):
        random = np.random.RandomState(i)
        left, top = random.randint(0, 240), random.randint(0, 127)
        part = photographs[i % 2].crop((left, top, left + 400, top + 300))
        name = classes[i % 10]
        place = folder / ("val" if i % 10 == 9 else "train") / name
        place.mkdir(parents=True, exist_ok=True)
        size = _SIZES[i % len(_SIZES)]
        part.resize(size, Image.Resampling.BICUBIC).save(place / f"{name}_{i}.JPEG", quality=95)


def _cores(wanted: str | None) -> list[int]:
    there = workers.cores()
    if wanted is None:
        return sorted({*(2**i for i in range(there.bit_length()) if 2**i <= there), there})
    try:
        chosen = sorted({int(text) for text in wanted.split(",")})
    except ValueError as error:
        raise InputError(f"--cores is {wanted!r}: give numbers, as in 1,2.") from error
    if not all(1 <= cores <= there for cores in chosen):
        raise InputError(f"--cores is {wanted!r}: there are {there}.")
    return chosen


def _measure(names: list[str], directory: Path, cores: int, args) -> dict:
    """Images a second of each contestant, on so many cores."""
    rates = {name: [] for name in names}
    for i in range(args.rounds):
        for name in names:
            rates[name].append(_turn(name, directory, cores, args))
        told = ", ".join(f"{name} {found[-1]:,.0f}" for name, found in rates.items())
        print(
            f"{counted(cores, 'core')}, round {i + 1}/{args.rounds}: {told} images/s",
            file=sys.stderr,
            flush=True,
        )
    medians = {name: statistics.median(found) for name, found in rates.items()}
    best = max(rate for name, rate in medians.items() if name.startswith("ours"))
    return {
        "cores": cores,
        "images_per_second": medians,
        "rounds": rates,
        "best_of_ours_over": {
            name: best / rate for name, rate in medians.items() if not name.startswith("ours")
        },
    }


def _turn(name: str, directory: Path, cores: int, args) -> float:
    job = [name, str(directory), str(cores), str(args.images), str(args.batch_size)]
    done = subprocess.run(
        [sys.executable, "-m", "launch.benchmark.input_contestant", *job],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RunError(f"{name} failed: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.split()[-1])


def _table(found: list[dict], args) -> str:
    names = list(found[0]["images_per_second"])
    lines = [
        f"random crops of 224 x 224 pixels in batches of {args.batch_size}, images/s; in brackets "
        "the better of ours over it",
        "  ".join(["cores", *(f"{name:>20}" for name in names)]),
    ]
    for row in found:
        cells = []
        for name, rate in row["images_per_second"].items():
            ratio = row["best_of_ours_over"].get(name)
            cells.append(f"{rate:,.0f}{f' ({ratio:.2f})' if ratio else ''}")
        lines.append("  ".join([f"{row['cores']:5}", *(f"{cell:>20}" for cell in cells)]))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(command.run(main))
