"""Classifies pictures with a trained network, or returns the features that its classifier reads."""

import functools
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from densenet_jax import pretrained
from densenet_jax.data import folders, imagenet
from densenet_jax.data.archives import naming_file
from densenet_jax.data.pictures import (
    MAX_PIXELS,
    TORCHVISION,
    Preprocessing,
    convert,
    from_array,
    load,
)
from densenet_jax.errors import InputError
from densenet_jax.models.network import Network, backbone

# A path, an open picture, or an array that `data.pictures.from_array` accepts.
Picture = str | Path | Image.Image | np.ndarray


class Prediction(NamedTuple):
    """A predicted class: its index, its name and its probability."""

    label: int
    name: str
    probability: float


def predict(
    model: Network | str | Path,
    pictures: Any,
    *,
    top: int = 5,
    classes: Sequence[str] | None = None,
    **options,
) -> Any:
    """Returns the `top` most probable classes of each picture, the most probable first.

    If pictures can have several classes (`multilabel`), their probabilities are independent.

    Args:
      model: a network, or a source that `pretrained.load` reads, such as "densenet121" or a run
        directory. A source is read at each call: load it first to classify many pictures.
      pictures: a picture, or an iterable of pictures, or a directory. Pictures are paths, PIL
        pictures, or arrays of shape `[H, W]`, `[H, W, 1]`, `[H, W, 3]` or `[H, W, 4]` of uint8 (0
        to 255), uint16 or floats (0 to 1). An array `[N, H, W, C]` is N pictures. An iterable is
        read one batch ahead.
      top: number of classes for each picture, at most the number of classes of the network.
      classes: names of the classes, in the order of the logits. The default is those of the
        network, or else ImageNet's names for 1000 classes, and numbers otherwise.
      **options: `preprocessing`, `crops`, `batch_size`, `on_error` and `max_pixels`, see `logits`.

    Returns:
      For one picture, a list of `Prediction` tuples: `label`, `name` and `probability` (0 to 1).
      For an iterable, an iterator over such lists. For a directory, a dict from the path of each
      picture below it to such a list. None stands for a picture that cannot be read, if `on_error`
      is given.

    Raises:
      InputError: a picture cannot be read, or an argument is wrong.

    >>> import numpy as np
    >>> from flax import nnx
    >>> import densenet_jax as dj
    >>> model = dj.create_model("densenet_bc_k4_d10", num_classes=3, rngs=nnx.Rngs(0))
    >>> picture = np.zeros((300, 400, 3), np.uint8)
    >>> names = ["bird", "cat", "dog"]
    >>> found = dj.predict(model, picture, top=2, classes=names)
    >>> len(found), found[0].name in names, found[0].probability >= found[1].probability
    (2, True, True)
    """
    network = model if isinstance(model, Network) else pretrained.load(model)
    if not (count := network.config.num_classes):
        raise InputError("the network has no classes to predict: use embed, or set num_classes")
    names = (network.classes or _class_names(count)) if classes is None else classes
    if not isinstance(names, Sequence | np.ndarray) or len(names) < count:
        raise InputError(f"classes is {names!r:.200}: give a list with each of {count} names")
    _check_count("top", top)
    top = min(top, count)

    def found(pictures: Iterable[Picture], **options) -> Iterator[list[Prediction] | None]:
        for values in logits(network, pictures, **options):
            if values is None:
                yield None
            else:
                yield _best(probabilities(values, network.multilabel), names, top)

    return _of_pictures(found, pictures, options)


def embed(model: Network | str | Path, pictures: Any, **options) -> Any:
    """Returns the features `[features]` of each picture that the network's classifier reads.

    For a DenseNet these are the averages of `norm5`. For the arguments, the forms of the result and
    errors see `predict`. Networks that do not end in a linear classifier raise InputError.

    >>> import numpy as np
    >>> from flax import nnx
    >>> import densenet_jax as dj
    >>> model = dj.create_model("densenet_bc_k4_d10", num_classes=3, rngs=nnx.Rngs(0))
    >>> dj.embed(model, np.zeros((300, 400, 3), np.uint8)).shape
    (9,)
    """
    network = backbone(model if isinstance(model, Network) else pretrained.load(model))
    return _of_pictures(functools.partial(logits, network), pictures, options)


def _of_pictures(found: Callable, pictures: Any, options: dict[str, Any]) -> Any:
    """Returns `found(pictures, **options)`, in the form of `predict` for each kind of pictures."""
    if isinstance(pictures, str | Path) and _is_directory(pictures):
        paths = folders.below(Path(pictures).expanduser())
        return dict(zip(paths, found(paths, **options), strict=True))
    if _is_picture(pictures):
        [alone] = found([pictures], **{"batch_size": 1, **options})
        return alone
    return found(pictures, **options)


def _is_directory(path: str | Path) -> bool:
    try:
        return bool(path) and Path(path).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):  # Such as a name that is too long.
        return False


def _is_picture(value: object) -> bool:
    if isinstance(value, np.ndarray | jax.Array):
        return value.ndim < 4
    return isinstance(value, str | Path | Image.Image)


def logits(model: Network, pictures: Iterable[Picture], **options) -> Iterator[np.ndarray | None]:
    """Yields the logits `[num_classes]` of each picture. For the options see `outputs`."""
    return outputs(_forward, model, pictures, **options)


def outputs(
    forward: Callable,
    model: Network,
    pictures: Iterable[Picture],
    *,
    preprocessing: Preprocessing | None = None,
    crops: int = 1,
    batch_size: int = 32,
    on_error: Callable[[int, InputError], None] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Any]:
    """Yields the part of `forward`'s result that belongs to each picture.

    Threads read the next batch of pictures while the network computes the current batch.

    Args:
      forward: function of a graph definition, a state, cropped images and their mean and standard
        deviation, see `_forward`; returns arrays or a tuple of arrays `[N, ...]`.
      model, pictures: see `predict`.
      preprocessing: the crop and the normalisation of pictures. The default is the network's, or
        else torchvision's for ImageNet if the network has three channels.
      crops: 1 for the central crop. 2 averages the logits of the central crop and its mirror image.
        10 averages the logits of the centre, of the corners, and of their mirror images.
      batch_size: pictures in one forward pass; larger uses more memory and less time.
      on_error: receives the index of a picture that cannot be read, and the error. None is yielded
        for such a picture. By default the error is raised.
      max_pixels: size of the largest file that is decoded.
    """
    if crops not in (1, 2, 10):
        raise InputError(f"crops is {crops}: use 1, 2 or 10")
    _check_count("batch_size", batch_size)
    _check_count("max_pixels", max_pixels)
    if _is_picture(pictures) or not isinstance(pictures, Iterable):
        raise InputError(f"pictures is {pictures!r:.200}: give a list of pictures")
    channels = model.config.in_channels
    preprocessing = preprocessing or model.preprocessing or TORCHVISION
    if not isinstance(preprocessing, Preprocessing) or len(preprocessing.mean) != channels:
        raise InputError(
            f"the preprocessing for {channels} channels is not known: give preprocessing, with a "
            "mean and a std for each channel"
        )
    mode = "L" if channels == 1 else "RGB"
    crop = preprocessing.crop.ten if crops == 10 else preprocessing.crop
    read = functools.partial(_read, mode=mode, crop=crop, max_pixels=max_pixels)
    graphdef, state = nnx.split(model)
    wide = model.config.param_dtype
    mean, std = (jnp.asarray(x, wide) for x in (preprocessing.mean, preprocessing.std))
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
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
            if crops == 2:
                images = [np.stack([image, image[:, ::-1]]) for image in images]
            images += images[:1] * (batch_size - len(images))  # Pad: each shape would be compiled.
            by_number = {}
            if found:
                values = jax.device_get(forward(graphdef, state, np.stack(images), mean, std))
                for i, number in enumerate(found):
                    by_number[number] = jax.tree.map(operator.itemgetter(i), values)
            yield from (by_number.get(number) for number, _ in reading)
    finally:  # Without waiting, because Python may be ending.
        pool.shutdown(wait=False)


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} is {value!r:.200}: it must be a whole number of at least 1")


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
        if re.match(r"https?://", str(picture)):
            raise InputError(f"{picture!r:.200} is a URL: download the picture first")
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


def probabilities(logits: np.ndarray, multilabel: bool) -> np.ndarray:
    """Returns the probabilities `[..., classes]`: softmax, or sigmoid for several labels."""
    if multilabel:
        return np.exp(-np.logaddexp(0, -logits))
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def _best(probabilities: np.ndarray, classes: Sequence[str], top: int) -> list[Prediction]:
    labels = np.argsort(-probabilities, kind="stable")[:top]
    return [Prediction(int(i), classes[i], float(probabilities[i])) for i in labels]


def _class_names(count: int) -> Sequence[str]:
    if count != 1000:
        return [str(i) for i in range(count)]
    return list(imagenet.classes().values())
