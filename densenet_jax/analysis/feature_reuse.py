"""Measures how a trained DenseNet reuses feature maps (CVPR section 5, Figure 5)."""

import jax
import numpy as np

from densenet_jax.errors import InputError
from densenet_jax.models.densenet import DenseNet, layers_read
from densenet_jax.models.network import Network


def heat_maps(model: Network) -> list[np.ndarray]:
    """Returns a heat map `[n + 1, n + 1]` of absolute weights for each block of n layers.

    Entry [s, l - 1] is the mean absolute weight with which layer l reads the maps of layer s. The
    block's input is s = 0, and the transition or the classifier is l = n + 1. NaN stands for maps
    that a layer does not read, and for a transition of "full" connectivity, which has no weights.

    Raises InputError if the network is not a DenseNet.
    """
    if not isinstance(model, DenseNet):
        raise InputError(f"a {type(model).__name__} has no dense blocks: heat maps need a DenseNet")
    found = []
    for b, block in enumerate(model.blocks):
        k = model.config.growth_rate * model.config.growth_factor**b
        inputs = block[0].conv1.kernel.shape[2]
        kernels: list[jax.Array | None] = [layer.conv1.kernel[...] for layer in block]
        last = b + 1 == len(model.blocks)
        reader = model.classifier if last else getattr(model.transitions[b], "conv", None)
        kernels.append(None if reader is None else reader.kernel[...])
        raw = np.full((len(kernels), len(kernels)), np.nan)
        for i, kernel in enumerate(kernels):
            if kernel is None:
                continue
            is_layer = i < len(block)
            read = layers_read(model.config, i + 1) if is_layer else range(len(kernels))
            # Per channel, over positions and outputs, in the order of layers_read.
            weights = np.abs(np.asarray(kernel)).mean((0, 1, 3) if kernel.ndim == 4 else 1)
            ends = np.cumsum([k if s else inputs for s in read])[:-1]
            raw[list(read), i] = [part.mean() for part in np.split(weights, ends)]
        found.append(raw)
    return found


def rescale(raw: np.ndarray) -> np.ndarray:
    """Rescales each column of a heat map to 0 to 1, as the papers do; a single entry becomes 1."""
    low, high = np.nanmin(raw, 0, initial=np.inf), np.nanmax(raw, 0, initial=-np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = (raw - low) / (high - low)
    return np.where(np.isnan(raw), np.nan, np.where(high > low, scaled, 1.0))


def reuse(raw: np.ndarray) -> np.ndarray:
    """Returns the relative use `[n + 1]` of each source of a heat map; 1 is average use.

    A reader's weights are divided by their mean over all sources that it reads. The use of a source
    is the mean over its readers.
    """
    return _mean(raw / _mean(raw, 0), 1)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Returns the mean of the entries that are not NaN, or NaN if there are none."""
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis) / (~np.isnan(values)).sum(axis)
