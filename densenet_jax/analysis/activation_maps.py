"""Class activation maps: where in a picture a network sees each class (Zhou et al., CVPR 2016).

They are exact for a network whose classifier reads the averages of its last feature maps: the mean
of a class's map over positions, plus the bias, is the logit of the class.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from densenet_jax.errors import InputError
from densenet_jax.models.network import Network
from densenet_jax.predict import Picture, outputs


class ActivationMaps(NamedTuple):
    """The class activation maps of a picture.

    Attributes:
      image: the cropped picture as the network saw it, uint8 `[H, W, channels]`.
      maps: `[h, w, classes]`, on the positions of the network's last feature maps.
      logits: `[classes]`.
    """

    image: np.ndarray
    maps: np.ndarray
    logits: np.ndarray


def class_activation_maps(
    model: Network, pictures: Iterable[Picture], **options: Any
) -> Iterator[ActivationMaps | None]:
    """Yields the class activation maps of each picture, None for one that cannot be read.

    Args:
      pictures: paths, PIL pictures or arrays, see `predict`.
      **options: `preprocessing`, `batch_size`, `on_error` and `max_pixels`, see `predict.outputs`.

    Raises:
      InputError: the network has no classes, or its classifier does not read averages of maps.
    """
    if not (model.pools_last_map and model.config.num_classes):
        raise InputError(
            f"a {type(model).__name__} of {model.config.num_classes} classes has no exact "
            "class activation maps: use a DenseNet or a ResNet with classes"
        )
    for found in outputs(_forward, model, pictures, **options):
        yield None if found is None else ActivationMaps(*found)


@functools.partial(jax.jit, static_argnums=0)
def _forward(graphdef, state, images, mean, std):
    """Returns the uint8 images `[N, H, W, C]`, their maps and their logits."""
    model = nnx.merge(graphdef, state)
    *_, last = model.features((images - mean) / std).values()
    last = last.astype(mean.dtype)
    maps = last @ model.classifier.kernel[...]
    return images, maps, maps.mean((1, 2)) + model.classifier.bias[...]
