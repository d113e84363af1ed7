"""Flags that choose a trained network and its preprocessing, shared by several commands."""

import argparse
import dataclasses
import logging
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from densenet_jax import pretrained
from densenet_jax.data.pictures import MAX_PIXELS, TORCHVISION, Preprocessing
from densenet_jax.errors import InputError, counted, printable
from densenet_jax.hub import HUB
from densenet_jax.models.network import Network
from launch.paths import ROOT, expanded

_BATCH_SIZE = 32
PRETRAINED = "pretrained"  # The value of --weights for the published weights of --model.


def add_flags(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds the flags that `read` reads."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "--weights",
        required=required,
        metavar="SOURCE",
        help="a run directory, or a record of one; a directory of launch.export; a .safetensors or "
        ".pth file with array names of torchvision, timm, mmpretrain, MONAI or torchxrayvision; "
        "hf:REPOSITORY, such as hf:timm/densenet121.tv_in1k; the name of a network with published "
        "weights, such as densenet121; or 'pretrained', with --model",
    )
    group.add_argument(
        "--model",
        metavar="NAME",
        help="name of the network in a weights file, such as densenet121; unnecessary if timm's "
        "config.json is beside the file, as on the hub",
    )
    group.add_argument(
        "--num_classes",
        type=int,
        metavar="N",
        help="number of classes of a weights file, 0 for a network without a classifier (default: "
        "that of the model, such as 1000)",
    )
    group.add_argument(
        "--ema",
        action="store_true",
        default=None,  # Commands refuse flags that are set beside a run.
        help="load the averaged weights of a training checkpoint, such as state_dict_ema of timm",
    )
    group = parser.add_argument_group(
        "preprocessing", "Defaults come from the run, the config.json or the name of the weights."
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
        choices=(1, 2, 10),
        default=1,
        help="crops of each picture: 1, the centre; 2, also mirrored; 10, also the corners, all "
        "mirrored (default: %(default)s)",
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


def read(args: argparse.Namespace) -> Network:
    """Loads the network that the flags choose, with its preprocessing.

    Raises InputError if the weights are missing or belong to another network, or if the
    preprocessing is unknown.
    """
    settings = {} if args.num_classes is None else {"num_classes": args.num_classes}
    if settings and args.num_classes < 0:
        raise InputError(f"--num_classes is {args.num_classes}: it must be at least 0")
    source, model = args.weights, args.model
    if source == PRETRAINED:
        if not model:
            raise InputError(
                "--weights pretrained needs --model: set it, as in --model densenet121"
            )
        source, model = HUB + pretrained.repository(model), None
    elif not source.startswith(HUB):
        path, project = expanded(source), ROOT / source
        # Records such as experiments/results/digits/seed=0 are found from any directory.
        args.weights = source = str(project if project.exists() and not path.exists() else path)
    network = pretrained.load(source, model, ema=bool(args.ema), **settings)
    network.preprocessing = _with_flags(_known(network, args), args, network.config.in_channels)
    return network


def _known(network: Network, args: argparse.Namespace) -> Preprocessing:
    """Returns the preprocessing of the network.

    If it is unknown, flags must set the crop, and a warning lists assumed values.
    """
    if network.preprocessing is not None:
        return network.preprocessing
    if not (args.resize and args.crop):
        raise InputError(
            f"the preprocessing of {args.weights!r} is not known: give --resize and --crop, and "
            "--interpolation, --mean and --std unless they are bilinear and ImageNet's"
        )
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
    network: Network,
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
        network,
        paths,
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
