"""Which trained network a command is to use: flags, and what comes of them."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flax import nnx

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


def add_flags(described: argparse.ArgumentParser) -> None:
    group = described.add_argument_group("network")
    group.add_argument(
        "--weights",
        required=True,
        metavar="FILE",
        help="a .safetensors or .pth file under the names of torchvision, timm or mmpretrain; "
        "hf:REPOSITORY, such as hf:timm/densenet121.tv_in1k; or a run directory, which knows its "
        "model and its classes",
    )
    group.add_argument("--model", help="of a file: a name of the catalogue, densenet121")
    group.add_argument(
        "--num_classes", type=int, default=1000, help="of a file's network (%(default)s)"
    )


def read(args: argparse.Namespace) -> Network:
    """Raises InputError if there are no such weights, or if they are of another network."""
    if Path(args.weights).is_dir():
        if args.model:
            raise InputError(f"{args.weights} is a run directory, which knows its --model.")
        model, description = trained.load(args.weights)
        return Network(model, preprocessing_of_run(description), description["classes"])
    if not args.model:
        raise InputError("a file of weights needs the --model that they are of: densenet121.")
    model = create_model(args.model, num_classes=args.num_classes, rngs=nnx.Rngs(0))
    weights.load_torch(model, args.weights)
    return Network(model, preprocessing_of(args.weights), None)
