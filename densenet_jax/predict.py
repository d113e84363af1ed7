"""Classifies pictures with a trained network."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from densenet_jax.data import imagenet
from densenet_jax.data.archives import naming_file
from densenet_jax.data.pictures import MAX_PIXELS, CentralCrop, convert, from_array, load
from densenet_jax.errors import InputError
from densenet_jax.hub import HUB
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.models.network import Network, NetworkConfig
from densenet_jax.models.rdnet import RDNetConfig
from densenet_jax.models.resnet import ResNetConfig

# A path, an open picture, or an array that `data.pictures.from_array` accepts.
Picture = str | Path | Image.Image | np.ndarray


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The crop and the normalisation of pictures. The default is torchvision's for ImageNet.

    Attributes:
      crop: function that cuts the image out of the picture.
      mean, std: one value for each channel, on a scale of 0 to 255. The mean is subtracted, and the
        difference is divided by std.
    """

    crop: CentralCrop = dataclasses.field(default_factory=CentralCrop)
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)


TORCHVISION = Preprocessing()
# Crops of published weights, by family and by the recipe in the name of the weights. None stands
# for files without a recipe: torchvision's files, and those of RDNet's authors.
_CROPS = {
    DenseNetConfig: {
        None: CentralCrop(),
        "tv_in1k": CentralCrop(interpolation="bicubic"),
        "ra_in1k": CentralCrop(303, 288, "bicubic"),
    },
    ResNetConfig: {None: CentralCrop(), "tv_in1k": CentralCrop()},
    RDNetConfig: {
        None: CentralCrop(248, 224, "bicubic"),  # 224 / 0.9
        "nv_in1k": CentralCrop(248, 224, "bicubic"),
        "nv_in1k_ft_in1k_384": CentralCrop(384, 384, "bicubic"),
    },
}
_RECIPE = re.compile(r"\.(\w*in1k\w*)")  # As in densenet121.tv_in1k, a name of timm's.


def preprocessing_for_weights(source: str, config: NetworkConfig) -> Preprocessing:
    """Returns the preprocessing of published weights.

    The family of the network and the recipe in the name of the weights decide the preprocessing.

    Args:
      source: a weights file, or `hf:REPOSITORY`.
      config: the config of the network.

    Raises:
      InputError: the preprocessing is not known.
    """
    found = _RECIPE.search(source.rpartition("/")[2])
    recipe = found and found[1]
    crops = _CROPS.get(type(config), {})
    # Hub repositories without a recipe in their name are not timm's. Networks for small images have
    # no published weights.
    known = recipe in crops and (recipe or not source.startswith(HUB))
    if not known or getattr(config, "stem", "imagenet") != "imagenet":
        raise InputError(
            f"the preprocessing of {source!r} is not known: give --resize and --crop, and "
            "--interpolation, --mean and --std unless they are bilinear and ImageNet's"
        )
    return Preprocessing(crops[recipe])


def preprocessing_for_run(description: dict) -> Preprocessing:
    """Returns the preprocessing of a run, given the content of its model.json.

    Raises InputError if the preprocessing depends on the whole training set, as whitening does.
    """
    if description["preprocessing"] != "standardize":
        raise InputError(
            f"this network was trained with data.preprocessing {description['preprocessing']!r}, "
            "which cannot be applied to single pictures: use launch.evaluate --workdir instead"
        )
    crop = CentralCrop(**description["crop"])
    return Preprocessing(crop, tuple(description["mean"]), tuple(description["std"]))


class Prediction(NamedTuple):
    """A predicted class: its index, its name and its probability."""

    label: int
    name: str
    probability: float


def predict(
    model: Network,
    pictures: Iterable[Picture],
    *,
    top: int = 5,
    classes: Sequence[str] | None = None,
    **options,
) -> Iterator[list[Prediction] | None]:
    """Yields the `top` most probable classes of each picture, the most probable first.

    Args:
      model: a network of `create_model`.
      pictures: paths, PIL pictures, or arrays of uint8 (0 to 255) or uint16 of shape `[H, W]`,
        `[H, W, 1]`, `[H, W, 3]` or `[H, W, 4]`. An iterable is read one batch ahead.
      top: number of classes for each picture, at most the number of classes of the network.
      classes: names of the classes, in the order of the logits. The default is ImageNet's names for
        1000 classes, and numbers otherwise.
      **options: `preprocessing`, `crops`, `batch_size`, `on_error` and `max_pixels`, see `logits`.

    Yields:
      A list of `Prediction` tuples: `label`, `name` and `probability` (0 to 1). None stands for a
      picture that cannot be read, if `on_error` is given.

    Raises:
      InputError: `pictures` is a single picture, a picture cannot be read, or an option is wrong.

    >>> import numpy as np
    >>> from flax import nnx
    >>> import densenet_jax as dj
    >>> model = dj.create_model("densenet_bc_k4_d10", num_classes=3, rngs=nnx.Rngs(0))
    >>> picture = np.zeros((300, 400, 3), np.uint8)
    >>> names = ["bird", "cat", "dog"]
    >>> [found] = dj.predict(model, [picture], top=2, classes=names, batch_size=1)
    >>> len(found), found[0].name in names, found[0].probability >= found[1].probability
    (2, True, True)
    """
    classes = classes or _class_names(model.config.num_classes)
    if len(classes) < model.config.num_classes:
        raise InputError(
            f"{len(classes)} names are too few for the {model.config.num_classes} classes: "
            "name each class"
        )
    top = min(top, model.config.num_classes)
    for values in logits(model, pictures, **options):
        yield None if values is None else _best(_softmax(values), classes, top)


def logits(
    model: Network,
    pictures: Iterable[Picture],
    *,
    preprocessing: Preprocessing = TORCHVISION,
    crops: int = 1,
    batch_size: int = 32,
    on_error: Callable[[int, InputError], None] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[np.ndarray | None]:
    """Yields the logits `[num_classes]` of each picture.

    Threads read the next batch of pictures while the network computes the current batch.

    Args:
      model, pictures: see `predict`.
      preprocessing: the crop and the normalisation of pictures.
      crops: 1 for the central crop. 10 averages the logits of the centre, of the corners, and of
        their mirror images.
      batch_size: pictures in one forward pass; larger uses more memory and less time.
      on_error: receives the index of a picture that cannot be read, and the error. None is yielded
        for such a picture. By default the error is raised.
      max_pixels: size of the largest file that is decoded.
    """
    if crops not in (1, 10):
        raise InputError(f"crops is {crops}: use 1 or 10")
    for name, value in (("batch_size", batch_size), ("max_pixels", max_pixels)):
        if value < 1:
            raise InputError(f"{name} is {value}: it must be at least 1")
    if isinstance(pictures, str | Path | Image.Image) or getattr(pictures, "ndim", 4) < 4:
        raise InputError("pictures is a single picture: give a list of pictures")
    mode = "L" if model.config.in_channels == 1 else "RGB"
    crop = preprocessing.crop if crops == 1 else preprocessing.crop.ten
    read = functools.partial(_read, mode=mode, crop=crop, max_pixels=max_pixels)
    graphdef, state = nnx.split(model)
    wide = model.config.param_dtype
    mean, std = (jnp.asarray(x, wide) for x in (preprocessing.mean, preprocessing.std))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        todo = enumerate(iter(pictures))
        submitted = _submit(pool, read, todo, batch_size)
        while submitted:
            # Threads read the next batch while the network computes this one.
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
            images += images[:1] * (batch_size - len(images))  # Pad: each shape would be compiled.
            values = _forward(graphdef, state, np.stack(images), mean, std) if found else []
            by_number = dict(zip(found, np.asarray(values), strict=False))
            yield from (by_number.get(number) for number, _ in reading)


def _submit(pool, read, todo, count: int) -> list[tuple[int, Future]]:
    submitted = []
    for number, picture in islice(todo, count):
        future = pool.submit(read, number, picture)
        submitted.append((number, future))
        if isinstance(picture, Image.Image):
            wait([future])  # PIL may reuse the object for the next frame.
    return submitted


def _read(
    number: int,
    picture: Picture,
    mode: str,
    crop: Callable[[Image.Image], np.ndarray],
    max_pixels: int,
) -> np.ndarray:
    if isinstance(picture, str | Path):
        with naming_file(picture):
            return crop(load(Path(picture).expanduser(), mode, max_pixels))
    with naming_file(f"picture {number}"):
        if not isinstance(picture, Image.Image):
            picture = from_array(np.asarray(picture))
        return crop(convert(picture, mode))


@functools.partial(jax.jit, static_argnums=0)
def _forward(graphdef, state, images, mean, std):
    """Returns the logits of uint8 images `[N, H, W, C]`, or the mean over `[N, crops, H, W, C]`."""
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
