"""Measure `launch.predict` against the same loop in PyTorch and Pillow.

    python -m launch.benchmark predict --model densenet121

Times whole commands, from their start to the last class. Both commands read the same JPEGs in
threads while the network classifies the batch before, crop with Pillow, and use the same random
weights. PyTorch is eager, in inference mode, with channels last. The commands alternate. "ours"
compiles in the first round and loads the compiled program in later rounds. Times are medians over
rounds. The report also counts the pictures to which both commands give the same class. The machine
should be idle.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flax import nnx
from PIL import Image

from densenet_jax import weight_files, weights
from densenet_jax.errors import InputError, RunError, counted
from densenet_jax.models.catalog import IMAGENET_DENSENETS, create_model
from launch import command
from launch.paths import ROOT

CONTESTANTS = {"ours": "launch.predict", "torch": "launch.benchmark.torch_prediction"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m launch.benchmark predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", default="densenet121", choices=IMAGENET_DENSENETS,
                        help="(default: %(default)s)")  # fmt: skip
    parser.add_argument("--pictures", type=int, default=500, metavar="N",
                        help="JPEGs to classify (default: %(default)s)")  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=32, metavar="N",
                        help="pictures per batch (default: %(default)s)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3, metavar="N",
                        help="runs of each command (default: %(default)s)")  # fmt: skip
    args = parser.parse_args(argv)
    for name in ("pictures", "batch_size", "rounds"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} is {getattr(args, name)}: it must be at least 1")
    if importlib.util.find_spec("torch") is None:
        raise InputError("torch is not installed: pip install torch")
    with tempfile.TemporaryDirectory() as directory:
        print(_compare(args, Path(directory)))


def _compare(args: argparse.Namespace, directory: Path) -> str:
    """Runs both commands, with files in `directory`; returns the table."""
    jpegs, file = directory / "pictures", directory / "weights.safetensors"
    jpegs.mkdir()
    _write_jpegs(jpegs, args.pictures)
    model = create_model(args.model, num_classes=1000, rngs=nnx.Rngs(0))
    weight_files.write(file, weights.to_torch(model))
    shared = [str(jpegs), "--model", args.model, "--weights", str(file)]
    shared += ["--batch_size", str(args.batch_size), "--json"]
    own = {"ours": ["--compile_cache", str(directory / "compiled")], "torch": []}
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    classes: dict[str, list[int]] = {}
    for i in range(args.rounds):
        for name, module in CONTESTANTS.items():
            started = time.perf_counter()
            classes[name] = _classes([sys.executable, "-m", module, *shared, *own[name]])
            seconds[name].append(time.perf_counter() - started)
            print(
                f"round {i + 1}/{args.rounds}: {name} {seconds[name][-1]:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    lines = [f"{args.model}: {counted(args.pictures, 'JPEG')} of 500 x 375 pixels, whole commands"]
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    lines += [
        f"{name:6} {median:7.1f} s  {args.pictures / median:6.1f} pictures/s  "
        f"{median / medians['ours']:5.2f} x ours"
        for name, median in medians.items()
    ]
    same = sum(a == b for a, b in zip(*classes.values(), strict=True))
    return "\n".join([*lines, f"the same class: {same} of {args.pictures}"])


def _write_jpegs(directory: Path, count: int) -> None:
    """Writes `count` parts of two photographs."""
    from sklearn.datasets import load_sample_images  # Importing it sets environment variables.

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for i in range(count):
        photograph = photographs[i % 2]
        left, top = 7 * i % (photograph.width - 500), 3 * i % (photograph.height - 375)
        part = photograph.crop((left, top, left + 500, top + 375))
        part.save(directory / f"{i:06}.jpg", quality=90)


def _classes(arguments: list[str]) -> list[int]:
    """Runs a command; returns the most probable class of each picture."""
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RunError(done.stderr.strip().split("\n")[-1].removeprefix("error: "))
    return [entry["predictions"][0]["label"] for entry in json.loads(done.stdout)]


if __name__ == "__main__":
    sys.exit(command.run(main))
