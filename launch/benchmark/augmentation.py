"""Measure RandAugment and TrivialAugment against timm and torchvision.

    python -m launch.benchmark augment

Changes the same images of 224 x 224 pixels, parts of a photograph. "ours" changes a batch in one
compiled program on JAX's default device; the peers change picture after picture with Pillow.
Policies alternate; times are medians over rounds, without compilation, decoding and copies to the
device. On CPU they are CPU times over all cores, on which other load has less effect; elsewhere
they are elapsed times.
"""

import functools
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
from PIL import Image

from densenet_jax.data.facts import FACTS
from densenet_jax.data.pictures import SIDE
from densenet_jax.data.random_augment import random_augment
from densenet_jax.data.trivial_augment import trivial_augment
from densenet_jax.errors import InputError, suggest
from launch import command

STRENGTH = 7  # From about 8 on, timm fails at times with Pillow 13, see random_augment.py.
PEERS = ("timm", "torchvision")


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__, compiles=False)
    parser.add_argument("--against", default=",".join(PEERS), metavar="PEERS",
                        help="packages to compare with (default: %(default)s)")  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=64, metavar="N",
                        help="images per batch (default: %(default)s)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, metavar="N",
                        help="batches per policy (default: %(default)s)")  # fmt: skip
    args = parser.parse_args(argv)
    peers = [name for name in args.against.split(",") if name]
    for name in peers:
        if name not in PEERS:
            raise InputError(f"there is no peer {name!r}: {suggest(name, PEERS)}")
        if importlib.util.find_spec(name) is None:
            raise InputError(f"{name} is not installed: pip install {name}")
    for key in ("batch_size", "rounds"):
        if getattr(args, key) < 1:
            raise InputError(f"--{key} is {getattr(args, key)}: it must be at least 1")
    images = _images(args.batch_size)
    policies = _ours(images) | _theirs(images, peers)
    seconds: dict[str, list[float]] = {name: [] for name in policies}
    on_cpu = jax.default_backend() == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    for i in range(args.rounds):
        for name, change in policies.items():
            started = clock()
            change(i)
            seconds[name].append(clock() - started)
    kind = "CPU time" if on_cpu else "elapsed time"
    print(f"batches of {args.batch_size}: ms of {kind} per image")
    for name, found in seconds.items():
        print(f"{name:<32}{1000 * statistics.median(found) / args.batch_size:6.2f}")


def _images(count: int) -> np.ndarray:
    """Returns `count` parts of a photograph: uint8 `[count, 224, 224, 3]`."""
    from sklearn.datasets import load_sample_image  # Importing it sets environment variables.

    photograph, random = load_sample_image("china.jpg"), np.random.default_rng(0)
    room = photograph.shape[0] - SIDE, photograph.shape[1] - SIDE
    corners = random.integers((0, 0), room, (count, 2), endpoint=True)
    return np.stack([photograph[y : y + SIDE, x : x + SIDE] for y, x in corners])


def _ours(images: np.ndarray) -> dict[str, Callable[[int], object]]:
    """Returns functions, compiled, that change all images in a round."""
    on_device, indices = jax.device_put((images, np.arange(len(images))))
    mean = FACTS["imagenet"].mean
    randomly = functools.partial(random_augment, strength=STRENGTH, mean=mean)
    policies: dict[str, Callable] = {"RandAugment": randomly, "TrivialAugment": trivial_augment}
    functions: dict[str, Callable[[int], object]] = {}
    for name, policy in policies.items():
        program = jax.jit(policy).lower(on_device, indices, jax.random.key(0)).compile()

        def change(i: int, program=program) -> object:
            return jax.block_until_ready(program(on_device, indices, jax.random.key(i)))

        change(0)
        functions[f"ours, {name}"] = change
    return functions


def _theirs(images: np.ndarray, peers: list[str]) -> dict[str, Callable[[int], object]]:
    pictures = [Image.fromarray(image) for image in images]
    transforms: dict[str, Callable[[Image.Image], Image.Image]] = {}
    if "timm" in peers:
        from timm.data.auto_augment import rand_augment_transform

        transforms["timm, RandAugment"] = rand_augment_transform(
            f"rand-m{STRENGTH}-mstd0.5-inc1", {"img_mean": (124, 116, 104)}
        )
    if "torchvision" in peers:
        from torchvision.transforms import TrivialAugmentWide

        transforms["torchvision, TrivialAugment"] = TrivialAugmentWide()

    def changing(transform: Callable[[Image.Image], Image.Image]) -> Callable[[int], object]:
        return lambda _: [transform(picture) for picture in pictures]

    return {name: changing(transform) for name, transform in transforms.items()}


if __name__ == "__main__":
    sys.exit(command.run(main))
