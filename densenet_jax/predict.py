"""Classify pictures with a trained network."""

import dataclasses
import functools
import importlib.resources
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from densenet_jax.data.pictures import CentralCrop, load
from densenet_jax.errors import InputError

# A file, a picture that is open, or uint8 [H, W] or [H, W, 3].
Picture = str | Path | Image.Image | np.ndarray


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What a network wants to be done to a picture. The default is torchvision's for ImageNet.

    Attributes:
      crop: what is cut out of it.
      mean, std: of each channel, on a scale of 0 to 255: subtracted, and divided by.
    """

    crop: CentralCrop = dataclasses.field(default_factory=CentralCrop)
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)


TORCHVISION = Preprocessing()
# timm's name for a recipe: what its weights want.
_OF_TIMM = {
    "tv_in1k": Preprocessing(CentralCrop(interpolation="bicubic")),
    "ra_in1k": Preprocessing(CentralCrop(303, 288, "bicubic")),
}


def preprocessing_of(source: str) -> Preprocessing:
    """What the weights at `source`, a file or `hf:REPOSITORY`, want, by their name."""
    for recipe, preprocessing in _OF_TIMM.items():
        if recipe in source:
            return preprocessing
    return TORCHVISION


def preprocessing_of_run(description: dict) -> Preprocessing:
    """What the network of a run wants, by its model.json. InputError if no picture can have it."""
    if description["preprocessing"] != "standardize":
        raise InputError(
            f"this network learnt from images after {description['preprocessing']}, which pictures "
            "by themselves cannot be given."
        )
    crop = CentralCrop(**description["crop"])
    return Preprocessing(crop, tuple(description["mean"]), tuple(description["std"]))


class Prediction(NamedTuple):
    """A class, by its number and its name, and its probability."""

    label: int
    name: str
    probability: float


def predict(
    model: nnx.Module,
    pictures: Iterable[Picture],
    *,
    top: int = 5,
    preprocessing: Preprocessing = TORCHVISION,
    classes: Sequence[str] | None = None,
    batch_size: int = 32,
    on_error: Callable[[int, InputError], None] | None = None,
) -> Iterator[list[Prediction] | None]:
    """The `top` most probable classes of each picture, the most probable first.

    Pictures are read, in threads, while the network works on those before them.

    Args:
      classes: their names; None: ImageNet's, if there are 1000, or else numbers.
      on_error: is told of a picture that cannot be read, by its number, which then has None; if
        not given, that is raised.
    """
    classes = classes or _class_names(model.config.num_classes)
    mode = "L" if model.config.in_channels == 1 else "RGB"
    read = functools.partial(_read, mode=mode, crop=preprocessing.crop)
    probabilities = _program(model, preprocessing)
    top = min(top, model.config.num_classes)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        todo = enumerate(iter(pictures))
        submitted = _submit(pool, read, todo, batch_size)
        while submitted:
            # The next ones are read while the network works.
            reading, submitted = submitted, _submit(pool, read, todo, batch_size)
            found = {}
            for number, future in reading:
                try:
                    found[number] = future.result()
                except InputError as error:
                    if on_error is None:
                        raise
                    on_error(number, error)
            scores = dict(zip(found, probabilities(list(found.values()), batch_size), strict=True))
            for number, _ in reading:
                yield _best(scores[number], classes, top) if number in scores else None


def _submit(pool, read, todo, count: int) -> list[tuple[int, Future]]:
    return [(number, pool.submit(read, picture)) for number, picture in islice(todo, count)]


def _read(picture: Picture, mode: str, crop: CentralCrop) -> np.ndarray:
    if isinstance(picture, str | Path):
        return crop(load(Path(picture), mode, upright=True))
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    return crop(picture.convert(mode))


def _program(model: nnx.Module, preprocessing: Preprocessing):
    """A function from uint8 images to probabilities; batches that are not full are filled up."""
    graphdef, state = nnx.split(model)
    wide = model.config.param_dtype
    mean, std = (jnp.asarray(x, wide) for x in (preprocessing.mean, preprocessing.std))

    @jax.jit
    def forward(state, images):
        logits = nnx.merge(graphdef, state)((images - mean) / std, train=False)
        return jax.nn.softmax(logits)

    def probabilities(images: list[np.ndarray], batch_size: int) -> np.ndarray:
        if not images:
            return np.empty((0,))
        filled = images + images[:1] * (batch_size - len(images))
        return np.asarray(forward(state, np.stack(filled)))[: len(images)]

    return probabilities


def _best(probabilities: np.ndarray, classes: Sequence[str], top: int) -> list[Prediction]:
    labels = np.argsort(-probabilities, kind="stable")[:top]
    return [Prediction(int(i), classes[i], float(probabilities[i])) for i in labels]


def _class_names(count: int) -> Sequence[str]:
    if count != 1000:
        return [str(i) for i in range(count)]
    text = importlib.resources.files("densenet_jax").joinpath("imagenet_classes.txt").read_text()
    return text.splitlines()
