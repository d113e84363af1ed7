"""Which trained network a command is to use: flags, and what comes of them."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from flax import nnx
from rich.console import Console
from rich.progress import track

from densenet_jax import weights
from densenet_jax.errors import InputError
from densenet_jax.models.catalog import create_model
from densenet_jax.predict import Preprocessing, preprocessing_of, preprocessing_of_run
from densenet_jax.train import trained


class Network(NamedTuple):
    """A network, what it wants to be done to pictures, and the names of its classes, if known."""

    model: nnx.Module
    preprocessing: Preprocessing
    classes: Sequence[str] | None


def add_flags(described: argparse.ArgumentParser, required: bool = True) -> None:
    group = described.add_argument_group("network")
    group.add_argument(
        "--weights",
        required=required,
        metavar="FILE",
        help="a .safetensors or .pth file under the names of torchvision, timm or mmpretrain; "
        "hf:REPOSITORY, such as hf:timm/densenet121.tv_in1k; or a run directory, which knows its "
        "model and its classes",
    )
    group.add_argument("--model", help="of a file: a name of the catalogue, densenet121")
    group.add_argument(
        "--num_classes", type=int, default=1000, help="of a file's network (%(default)s)"
    )
    group = described.add_argument_group("preprocessing", "By default as the weights' name tells.")
    group.add_argument("--resize", type=int, metavar="PIXELS", help="of the short side, before")
    group.add_argument("--crop", type=int, metavar="PIXELS", help="side of the square cut out")
    group.add_argument("--interpolation", choices=("bilinear", "bicubic"))


def add_look_flags(described) -> None:
    """Adds the flags that `look_at` reads, to a parser or a group."""
    described.add_argument(
        "--crops",
        type=int,
        choices=(1, 10),
        default=1,
        help="of each picture: the middle, or also the corners and mirror images (%(default)s)",
    )
    described.add_argument("--batch_size", type=int, default=32, help="(%(default)s)")


def read(args: argparse.Namespace) -> Network:
    """Raises InputError if there are no such weights, or if they are of another network."""
    if args.num_classes < 1:
        raise InputError(f"--num_classes is {args.num_classes}: it must be at least 1.")
    found = _of_run(args) if Path(args.weights).is_dir() else _of_file(args)
    given = {"resize": args.resize, "size": args.crop, "interpolation": args.interpolation}
    given = {name: value for name, value in given.items() if value is not None}
    crop = dataclasses.replace(found.preprocessing.crop, **given)
    return found._replace(preprocessing=dataclasses.replace(found.preprocessing, crop=crop))


def _of_run(args: argparse.Namespace) -> Network:
    if args.model:
        raise InputError(f"{args.weights} is a run directory, which knows its --model.")
    model, description = trained.load(args.weights)
    return Network(model, preprocessing_of_run(description), description["classes"])


def _of_file(args: argparse.Namespace) -> Network:
    if not args.model:
        raise InputError("a file of weights needs the --model that they are of: densenet121.")
    model = create_model(args.model, num_classes=args.num_classes, rngs=nnx.Rngs(0))
    weights.load_torch(model, args.weights)
    return Network(model, preprocessing_of(args.weights), None)


def look_at(
    found: Network, paths: Sequence[Path], look: Callable, args: argparse.Namespace, **options
) -> list:
    """What `look`, of `densenet_jax.predict`, sees in pictures, None in a broken one.

    Shows progress. Raises InputError if all are broken.
    """

    def on_error(number: int, error: InputError) -> None:
        print(f"passed over: {error}", file=sys.stderr)

    if args.batch_size < 1:
        raise InputError(f"--batch_size is {args.batch_size}: it must be at least 1.")
    seen = look(
        found.model,
        paths,
        preprocessing=found.preprocessing,
        crops=args.crops,
        batch_size=min(args.batch_size, len(paths)),
        on_error=on_error,
        **options,
    )
    console, results = Console(stderr=True), []
    lines_after = max(len(paths) // 10, 1000)
    bar = track(seen, "pictures", len(paths), console=console, disable=not console.is_terminal)
    for result in bar:
        results.append(result)
        if not console.is_terminal and len(results) % lines_after == 0:
            print(f"{len(results):,} of {len(paths):,} pictures", file=sys.stderr, flush=True)
    if all(result is None for result in results):
        raise InputError("none of the pictures can be read.")
    return results
