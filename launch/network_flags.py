"""Flags that choose a trained network and its preprocessing, shared by several commands."""

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
from densenet_jax.hub import HUB
from densenet_jax.models.catalog import create_model
from densenet_jax.models.network import Network, NetworkConfig
from densenet_jax.predict import (
    TORCHVISION,
    Preprocessing,
    preprocessing_for_run,
    preprocessing_for_weights,
)
from densenet_jax.train import saved_network
from launch.paths import expanded

_BATCH_SIZE = 32
_NUM_CLASSES = 1000  # As in ImageNet.


class ChosenNetwork(NamedTuple):
    """The network that flags choose.

    Attributes:
      model: the network with its weights.
      preprocessing: prepares pictures for the network.
      classes: names of the classes in the order of labels; None if unknown.
    """

    model: Network
    preprocessing: Preprocessing
    classes: Sequence[str] | None


def add_flags(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds the flags that `read` reads."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "--weights",
        required=required,
        metavar="FILE",
        help="a .safetensors or .pth file, or an index of .safetensors shards, with array names of "
        "torchvision, timm, MONAI, torchxrayvision or mmpretrain; hf:REPOSITORY, such as "
        "hf:timm/densenet121.tv_in1k; or a run directory, which records its model and classes",
    )
    group.add_argument(
        "--model",
        metavar="NAME",
        help="name of the network in a weights file, such as densenet121; not for a run directory",
    )
    group.add_argument(
        "--num_classes",
        type=int,
        metavar="N",
        help=f"number of classes of a weights file (default: {_NUM_CLASSES})",
    )
    group.add_argument(
        "--ema",
        action="store_true",
        default=None,  # Commands refuse flags that are set beside a run.
        help="load the averaged weights of a training checkpoint, such as state_dict_ema of timm",
    )
    group = parser.add_argument_group(
        "preprocessing", "Defaults come from the run, or from the name of published weights."
    )
    group.add_argument(
        "--resize", type=int, metavar="PIXELS", help="length of the short side before the crop"
    )
    group.add_argument("--crop", type=int, metavar="PIXELS", help="side of the central square")
    group.add_argument("--interpolation", choices=("bilinear", "bicubic"))
    for name, what in (("mean", "mean"), ("std", "standard deviation")):
        group.add_argument(
            f"--{name}",
            type=float,
            nargs="+",
            metavar="X",
            help=f"{what} of each channel, whose values are 0 to 255",
        )


def add_picture_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `apply` reads."""
    parser.add_argument(
        "--crops",
        type=int,
        choices=(1, 10),
        default=1,
        help="crops of each picture: 1, the centre; 10, also the corners and all mirrored "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        metavar="N",
        help=f"pictures at a time (default: {_BATCH_SIZE})",
    )
    add_max_pixels(parser)


def add_max_pixels(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that limits the size of pictures."""
    parser.add_argument(
        "--max_pixels",
        type=int,
        metavar="N",
        help=f"pixels of the largest picture to decode (default: {MAX_PIXELS})",
    )


def read(args: argparse.Namespace) -> ChosenNetwork:
    """Loads the network that the flags choose.

    Raises InputError if the weights are missing or belong to another network, or if the
    preprocessing is unknown.
    """
    num_classes = _NUM_CLASSES if args.num_classes is None else args.num_classes
    if num_classes < 1:
        raise InputError(f"--num_classes is {num_classes}: it must be at least 1")
    if not args.weights.startswith(HUB):
        args.weights = str(expanded(args.weights))
        if not Path(args.weights).exists():
            raise InputError(f"there is no weights file or run directory {args.weights}")
    if Path(args.weights).is_dir():
        return _read_run(args)
    if not args.model:
        raise InputError(
            f"{args.weights} is a weights file without --model: set it, as in --model densenet121"
        )
    model = create_model(args.model, num_classes=num_classes, rngs=nnx.Rngs(0))
    preprocessing = _with_flags(_published(args, model.config), args, model.config.in_channels)
    weights.load_torch(model, args.weights, ema=bool(args.ema))
    return ChosenNetwork(model, preprocessing, None)


def _read_run(args: argparse.Namespace) -> ChosenNetwork:
    for flag in ("model", "num_classes"):
        if getattr(args, flag) is not None:
            raise InputError(
                f"{args.weights} is a run directory, which records its {flag}: remove --{flag}"
            )
    if args.ema:
        raise InputError(f"{args.weights} is a run directory, which --ema is not for: remove --ema")
    model, description = saved_network.load_network(args.weights)
    preprocessing = preprocessing_for_run(description)
    channels = model.config.in_channels
    return ChosenNetwork(model, _with_flags(preprocessing, args, channels), description["classes"])


def _published(args: argparse.Namespace, config: NetworkConfig) -> Preprocessing:
    """Returns the preprocessing of a weights file.

    If the preprocessing is unknown, flags must set the crop, and a warning lists assumed values.
    """
    try:
        return preprocessing_for_weights(args.weights, config)
    except InputError:
        if not (args.resize and args.crop):
            raise
    assumed = {"interpolation": "bilinear", "mean": "ImageNet's", "std": "ImageNet's"}
    if unset := [f"--{key} is {kind}" for key, kind in assumed.items() if not getattr(args, key)]:
        logging.getLogger("densenet_jax").warning(
            "%s: assumed that %s", args.weights, ", ".join(unset)
        )
    return TORCHVISION


def _with_flags(
    preprocessing: Preprocessing, args: argparse.Namespace, channels: int
) -> Preprocessing:
    """Returns `preprocessing` with the values that flags set."""
    given = {"resize": args.resize, "size": args.crop, "interpolation": args.interpolation}
    given = {name: value for name, value in given.items() if value is not None}
    crop = dataclasses.replace(preprocessing.crop, **given)
    mean = tuple(args.mean or preprocessing.mean)
    std = tuple(args.std or preprocessing.std)
    for name, values, least in (("mean", mean, -math.inf), ("std", std, 0)):
        if len(values) != channels or not all(least < value < math.inf for value in values):
            above = ", above 0" if name == "std" else ""
            raise InputError(
                f"the {name} of the {counted(channels, 'channel')} is {values}: set --{name} to a "
                f"number for each channel{above}"
            )
    return dataclasses.replace(preprocessing, crop=crop, mean=mean, std=std)


def apply(
    function: Callable,
    network: ChosenNetwork,
    paths: Sequence[Path],
    args: argparse.Namespace,
    **options,
) -> list:
    """Applies a function of `densenet_jax.predict` to pictures, and shows progress.

    Returns the result for each picture, which is None for an unreadable picture.

    Raises InputError if all pictures are unreadable.
    """

    def on_error(number: int, error: InputError) -> None:
        print(f"skipped: {printable(error)}", file=sys.stderr)

    batch_size = _BATCH_SIZE if args.batch_size is None else args.batch_size
    stream = function(
        network.model,
        paths,
        preprocessing=network.preprocessing,
        crops=args.crops,
        batch_size=min(batch_size, len(paths)),
        on_error=on_error,
        max_pixels=MAX_PIXELS if args.max_pixels is None else args.max_pixels,
        **options,
    )
    console, results = Console(stderr=True), []
    lines_after = max(len(paths) // 10, 1000)
    bar = track(stream, "pictures", len(paths), console=console, disable=not console.is_terminal)
    for result in bar:
        results.append(result)
        if not console.is_terminal and len(results) % lines_after == 0:
            done = f"{len(results):,} of {counted(len(paths), 'picture')}"
            print(done, file=sys.stderr, flush=True)
    if all(result is None for result in results):
        raise InputError("none of the pictures can be read: check their format")
    return results
