"""Fits the classifier and the first convolution of PyTorch weights to a network."""

import math
from collections.abc import Mapping

import numpy as np

from densenet_jax.errors import counted
from densenet_jax.torch_names import HEADS

# Input channels of weights that can be fitted: grey and RGB. Four channels have no common meaning.
_FITTED_CHANNELS = (1, 3)


def find_classifier(
    given: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], head: str
) -> str | None:
    """Returns the layer of `given` that is the classifier under another name, or None.

    The classifier is the only unexpected layer, is linear, and has a common name such as
    `classifier.0` or `class_layers.out`, or reads as many features as the classifier of the
    network.

    Args:
      given: arrays under PyTorch's names.
      expected: the shapes of the network's arrays under PyTorch's names.
      head: prefix of the classifier's names in `expected`.
    """
    if any(name.startswith(head) and name in expected for name in given):
        return None
    unexpected = [name for name in given if name not in expected]
    layers = {name.rpartition(".")[0] for name in unexpected}
    if len(layers) != 1:
        return None
    layer = layers.pop()
    weight = given.get(f"{layer}.weight")
    if weight is None or weight.ndim != 2:
        return None
    if not {f"{layer}.weight", f"{layer}.bias"}.issuperset(unexpected):
        return None
    reads_the_features = weight.shape[1:] == expected[f"{head}weight"][1:]
    return layer if reads_the_features or f"{layer}.".startswith(HEADS) else None


def can_fit(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Returns whether kernels of these shapes differ in their input channels only, grey or RGB."""
    return (
        len(shape) == len(expected) == 4
        and shape[1] != expected[1]
        and shape[1] in _FITTED_CHANNELS
        and (shape[0], *shape[2:]) == (expected[0], *expected[2:])
    )


def fit(kernel: np.ndarray, channels: int) -> tuple[np.ndarray, str]:
    """Returns a kernel `[out, in, height, width]` for other input channels, and what was done.

    For one channel the kernels of the input channels are summed, so that a grey picture gives the
    same activations as its RGB copy. For more channels the kernels are repeated in turn, and scaled
    to keep the size of the activations. timm's `adapt_input_conv` does the same.

    >>> import numpy as np
    >>> fitted, done = fit(np.ones((8, 3, 7, 7), np.float32), channels=1)
    >>> fitted.shape, float(fitted[0, 0, 0, 0]), done
    ((8, 1, 7, 7), 3.0, '3 input channels instead of 1: the kernels were summed')
    """
    stored = kernel.shape[1]
    if channels == 1:
        fitted, done = kernel.sum(1, keepdims=True), "summed"
    else:
        scale = stored / channels
        copies = math.ceil(channels / stored)
        fitted = np.tile(kernel, (1, copies, 1, 1))[:, :channels] * kernel.dtype.type(scale)
        done = f"repeated and multiplied by {scale:.3g}"
    number = counted(stored, "input channel")
    return fitted, f"{number} instead of {channels}: the kernels were {done}"
