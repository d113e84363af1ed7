"""Measure the stream of pictures for training on ImageNet, against PyTorch's DataLoader.

    python -m launch.benchmark input

Every contestant reads, decodes, crops and flips the same JPEGs; no network is trained. Contestants
alternate, each in a separate process that may use only the given number of cores:

  ours            threads, as on hosts of up to four cores
  ours-processes  a process for each core, as on larger hosts
  torch           DataLoader, a worker for each core; Pillow's random crops and flips
  torch-colors    torch with colour jitter, light and normalisation, which ours does on the device

The transforms are torchvision's, operation by operation. Rates are medians over rounds, measured
once all workers are running. Without --data_directory the pictures are parts of two photographs, in
sizes typical of ImageNet. The machine should be idle.
"""

import argparse
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

from densenet_jax.data import imagenet, workers
from densenet_jax.errors import InputError, RunError, counted, suggest
from launch import command
from launch.paths import ROOT, typed_path

CONTESTANTS = ("ours", "ours-processes", "torch", "torch-colors")
# Width and height of generated pictures. ImageNet's pictures have 400 x 350 pixels on average.
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
    parser.add_argument("--against", default="torch,torch-colors", metavar="PEERS",
                        help="see above (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--data_directory",
        type=typed_path,
        metavar="DIR",
        help="ImageNet, in any form that training reads",
    )
    parser.add_argument("--pictures", type=int, default=400, metavar="N",
                        help="JPEGs to generate (default: %(default)s)")  # fmt: skip
    parser.add_argument("--images", type=int, default=2000, metavar="N",
                        help="crops per round (default: %(default)s)")  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=64, metavar="N",
                        help="crops per batch (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--cores", metavar="N,N,...", help="core counts (default: 1, 2, 4 and so on, up to all)"
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N",
                        help="rounds per contestant (default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    args = parser.parse_args(argv)
    peers = [name for name in args.against.split(",") if name]
    for name in peers:
        if name not in CONTESTANTS:
            raise InputError(f"there is no contestant {name!r}: {suggest(name, CONTESTANTS)}")
    for key in ("pictures", "images", "batch_size", "rounds"):
        if getattr(args, key) < 1:
            raise InputError(f"--{key} is {getattr(args, key)}: it must be at least 1")
    if importlib.util.find_spec("torch") is None and any(
        name.startswith("torch") for name in peers
    ):
        raise InputError("torch is not installed: pip install torch")
    names = list(dict.fromkeys(["ours", "ours-processes", *peers]))
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.data_directory
        if directory is None:
            directory = Path(temporary)
            write_pictures(directory, args.pictures)
        imagenet.find(directory)
        found = [_measure(names, directory, cores, args) for cores in _cores(args.cores)]
    print(_table(found, args))
    if args.json:
        print(json.dumps(found))


def write_pictures(directory: Path, count: int) -> None:
    """Writes JPEGs in ImageNet's layout; every tenth picture is for validation."""
    from sklearn.datasets import load_sample_images  # Importing it sets environment variables.

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    classes = list(imagenet.classes())
    for i in range(count):
        random = np.random.RandomState(i)
        left, top = random.randint(0, 240), random.randint(0, 127)
        part = photographs[i % 2].crop((left, top, left + 400, top + 300))
        name = classes[i % 10]
        place = directory / ("val" if i % 10 == 9 else "train") / name
        place.mkdir(parents=True, exist_ok=True)
        size = _SIZES[i % len(_SIZES)]
        part.resize(size, Image.Resampling.BICUBIC).save(place / f"{name}_{i}.JPEG", quality=95)


def _cores(requested: str | None) -> list[int]:
    """Returns the core counts to measure. Raises InputError if `requested` is impossible."""
    available = workers.cores()
    if requested is None:
        powers = (2**i for i in range(available.bit_length()))
        return sorted({*(power for power in powers if power <= available), available})
    try:
        chosen = sorted({int(text) for text in requested.split(",")})
    except ValueError as error:
        raise InputError(f"--cores is {requested!r}: give numbers, as in 1,2") from error
    if not all(1 <= cores <= available for cores in chosen):
        raise InputError(f"--cores is {requested!r}: use numbers from 1 to {available}")
    return chosen


def _measure(names: list[str], directory: Path, cores: int, args: argparse.Namespace) -> dict:
    """Returns the images per second of each contestant on `cores` cores."""
    rates: dict[str, list[float]] = {name: [] for name in names}
    for i in range(args.rounds):
        for name in names:
            rates[name].append(_rate(name, directory, cores, args))
        latest = ", ".join(f"{name} {found[-1]:,.0f}" for name, found in rates.items())
        print(
            f"{counted(cores, 'core')}, round {i + 1}/{args.rounds}: {latest} images/s",
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


def _rate(name: str, directory: Path, cores: int, args: argparse.Namespace) -> float:
    """Runs one round of a contestant; returns its images per second."""
    arguments = [name, str(directory), str(cores), str(args.images), str(args.batch_size)]
    done = subprocess.run(
        [sys.executable, "-m", "launch.benchmark.input_worker", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RunError(f"{name} failed: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.split()[-1])


def _table(found: list[dict], args: argparse.Namespace) -> str:
    """Returns the rates as aligned text."""
    names = list(found[0]["images_per_second"])
    lines = [
        f"random crops of 224 x 224 pixels in batches of {args.batch_size}, images/s of the input "
        "stream alone; in brackets: the faster of ours, as a multiple of that rate",
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
