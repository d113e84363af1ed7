"""Classify pictures with a trained network."""

import dataclasses
import functools
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

from densenet_jax.data import imagenet
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
    classes: Sequence[str] | None = None,
    **options,
) -> Iterator[list[Prediction] | None]:
    """The `top` most probable classes of each picture, the most probable first.

    Args:
      classes: their names; None: ImageNet's, if there are 1000, or else numbers.
      **options: of `logits`.
    """
    classes = classes or _class_names(model.config.num_classes)
    top = min(top, model.config.num_classes)
    for values in logits(model, pictures, **options):
        yield None if values is None else _best(_softmax(values), classes, top)


def logits(
    model: nnx.Module,
    pictures: Iterable[Picture],
    *,
    preprocessing: Preprocessing = TORCHVISION,
    crops: int = 1,
    batch_size: int = 32,
    on_error: Callable[[int, InputError], None] | None = None,
) -> Iterator[np.ndarray | None]:
    """The logits `[classes]` of each picture.

    Pictures are read, in threads, while the network works on those before them.

    Args:
      crops: 1, the middle; or 10, the mean over it, the corners and their mirror images.
      batch_size: pictures that the network sees at a time.
      on_error: is told of a picture that cannot be read, by its number, which then has None; if
        not given, that is raised.
    """
    if crops not in (1, 10):
        raise InputError(f"crops is {crops}: 1 or 10.")
    mode = "L" if model.config.in_channels == 1 else "RGB"
    crop = preprocessing.crop if crops == 1 else preprocessing.crop.ten
    read = functools.partial(_read, mode=mode, crop=crop)
    graphdef, state = nnx.split(model)
    wide = model.config.param_dtype
    mean, std = (jnp.asarray(x, wide) for x in (preprocessing.mean, preprocessing.std))
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
            images = list(found.values())
            images += images[:1] * (batch_size - len(images))  # One shape is one program.
            values = _forward(graphdef, state, np.stack(images), mean, std) if found else []
            by_number = dict(zip(found, np.asarray(values), strict=False))
            yield from (by_number.get(number) for number, _ in reading)


def _submit(pool, read, todo, count: int) -> list[tuple[int, Future]]:
    return [(number, pool.submit(read, picture)) for number, picture in islice(todo, count)]


def _read(picture: Picture, mode: str, crop: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    if isinstance(picture, str | Path):
        return crop(load(Path(picture), mode, upright=True))
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    return crop(picture.convert(mode))


@functools.partial(jax.jit, static_argnums=0)
def _forward(graphdef, state, images, mean, std):
    """Logits of uint8 `[N, H, W, C]`, or their means of `[N, crops, H, W, C]`."""
    normalized = (images.reshape(-1, *images.shape[-3:]) - mean) / std
    values = nnx.merge(graphdef, state)(normalized, train=False)
    return values.reshape(len(images), -1, values.shape[-1]).mean(1)


def _softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max())
    return exponentials / exponentials.sum()


def _best(probabilities: np.ndarray, classes: Sequence[str], top: int) -> list[Prediction]:
    labels = np.argsort(-probabilities, kind="stable")[:top]
    return [Prediction(int(i), classes[i], float(probabilities[i])) for i in labels]


def _class_names(count: int) -> Sequence[str]:
    if count != 1000:
        return [str(i) for i in range(count)]
    return list(imagenet.classes().values())
