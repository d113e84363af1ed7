"""Flags that choose a trained network and its preprocessing, and the network that they choose."""

import argparse
import dataclasses
import logging
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from flax import nnx
from rich.console import Console
from rich.progress import track

from densenet_jax import weights
from densenet_jax.data.pictures import MAX_PIXELS
from densenet_jax.errors import InputError, counted, printable
from densenet_jax.models.catalog import create_model
from densenet_jax.models.network import NetworkConfig
from densenet_jax.predict import (
    TORCHVISION,
    Preprocessing,
    preprocessing_of,
    preprocessing_of_run,
)
from densenet_jax.train import trained
from densenet_jax.weight_files import HUB
from launch.paths import expanded

_BATCH_SIZE = 32
_NUM_CLASSES = 1000  # ImageNet's.


class Network(NamedTuple):
    """A trained network.

    Attributes:
      classes: their names, in the order of labels; None if unknown.
      preprocessing: prepares pictures for it.
    """

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
        "--num_classes", type=int, metavar="N", help=f"of a file's network ({_NUM_CLASSES})"
    )
    group = described.add_argument_group(
        "preprocessing", "The default follows from the run, or from the name of published weights."
    )
    group.add_argument("--resize", type=int, metavar="PIXELS", help="of the short side, before")
    group.add_argument("--crop", type=int, metavar="PIXELS", help="side of the central square")
    group.add_argument("--interpolation", choices=("bilinear", "bicubic"))
    for name, what in (("mean", "subtracted"), ("std", "divided by")):
        group.add_argument(
            f"--{name}", type=float, nargs="+", metavar="X", help=f"a channel, of 0 to 255; {what}"
        )


def add_look_flags(described) -> None:
    """Adds the flags that `look_at` reads to a parser or a group."""
    described.add_argument(
        "--crops",
        type=int,
        choices=(1, 10),
        default=1,
        help="of each picture: the middle, or also the corners and mirror images (%(default)s)",
    )
    described.add_argument("--batch_size", type=int, metavar="N", help=f"({_BATCH_SIZE})")
    add_max_pixels(described)


def add_max_pixels(described) -> None:
    """Adds the flag of the largest picture to a parser or a group."""
    described.add_argument(
        "--max_pixels",
        type=int,
        metavar="N",
        help=f"pixels of the largest picture that is decoded ({MAX_PIXELS})",
    )


def read(args: argparse.Namespace) -> Network:
    """Returns the network that the flags choose.

    Raises InputError if there are no such weights, if they are of another network, or if their
    preprocessing is not known.
    """
    num_classes = _NUM_CLASSES if args.num_classes is None else args.num_classes
    if num_classes < 1:
        raise InputError(f"--num_classes is {num_classes}: it must be at least 1.")
    if not args.weights.startswith(HUB):
        args.weights = str(expanded(args.weights))
        if not Path(args.weights).exists():
            raise InputError(f"there is no weights file or run directory {args.weights}")
    if Path(args.weights).is_dir():
        return _of_run(args)
    if not args.model:
        raise InputError("a file of weights needs the --model that they are of: densenet121.")
    model = create_model(args.model, num_classes=num_classes, rngs=nnx.Rngs(0))
    preprocessing = _with_flags(_published(args, model.config), args, model.config.in_channels)
    weights.load_torch(model, args.weights)
    return Network(model, preprocessing, None)


def _of_run(args: argparse.Namespace) -> Network:
    for flag in ("model", "num_classes"):
        if getattr(args, flag) is not None:
            raise InputError(f"{args.weights} is a run directory, which knows its --{flag}.")
    model, description = trained.load(args.weights)
    preprocessing = preprocessing_of_run(description)
    channels = model.config.in_channels
    return Network(model, _with_flags(preprocessing, args, channels), description["classes"])


def _published(args: argparse.Namespace, config: NetworkConfig) -> Preprocessing:
    """Returns the preprocessing of a file.

    If it is not known, flags must give the crop; the log names what is assumed beside.
    """
    try:
        return preprocessing_of(args.weights, config)
    except InputError:
        if not (args.resize and args.crop):
            raise
    assumed = {"interpolation": "bilinear", "mean": "ImageNet's", "std": "ImageNet's"}
    if assumed := [f"--{key} is {kind}" for key, kind in assumed.items() if not getattr(args, key)]:
        logging.getLogger("densenet_jax").warning(
            "%s: assumed that %s", args.weights, ", ".join(assumed)
        )
    return TORCHVISION


def _with_flags(
    preprocessing: Preprocessing, args: argparse.Namespace, channels: int
) -> Preprocessing:
    """Returns `preprocessing`, changed by the flags that are given."""
    given = {"resize": args.resize, "size": args.crop, "interpolation": args.interpolation}
    given = {name: value for name, value in given.items() if value is not None}
    changes = {"crop": dataclasses.replace(preprocessing.crop, **given)}
    for name, least in (("mean", -math.inf), ("std", 0)):
        values = changes[name] = tuple(getattr(args, name) or getattr(preprocessing, name))
        if len(values) != channels or not all(least < value < math.inf for value in values):
            above = ", above 0" if name == "std" else ""
            raise InputError(
                f"the {name} of the {counted(channels, 'channel')} is {values}: set --{name} to a "
                f"number for each channel{above}"
            )
    return dataclasses.replace(preprocessing, **changes)


def look_at(
    found: Network, paths: Sequence[Path], look: Callable, args: argparse.Namespace, **options
) -> list:
    """Returns what `look`, of `densenet_jax.predict`, yields for pictures; None for a broken one.

    Shows progress. Raises InputError if all are broken.
    """

    def on_error(number: int, error: InputError) -> None:
        print(f"skipped: {printable(error)}", file=sys.stderr)

    batch_size = _BATCH_SIZE if args.batch_size is None else args.batch_size
    seen = look(
        found.model,
        paths,
        preprocessing=found.preprocessing,
        crops=args.crops,
        batch_size=min(batch_size, len(paths)),
        on_error=on_error,
        max_pixels=MAX_PIXELS if args.max_pixels is None else args.max_pixels,
        **options,
    )
    console, results = Console(stderr=True), []
    lines_after = max(len(paths) // 10, 1000)
    bar = track(seen, "pictures", len(paths), console=console, disable=not console.is_terminal)
    for result in bar:
        results.append(result)
        if not console.is_terminal and len(results) % lines_after == 0:
            done = f"{len(results):,} of {counted(len(paths), 'picture')}"
            print(done, file=sys.stderr, flush=True)
    if all(result is None for result in results):
        raise InputError("none of the pictures can be read.")
    return results
