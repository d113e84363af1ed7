"""What layers of a trained DenseNet make of the maps they read (CVPR section 5, Figure 5)."""

import numpy as np
from flax import nnx

from densenet_jax.errors import InputError
from densenet_jax.models.densenet import DenseNet, layers_read


def heat_maps(model: nnx.Module) -> list[np.ndarray]:
    """How much each layer weighs what it reads: an array `[n + 1, n + 1]` for each block.

    Entry [s, l - 1] is the mean absolute weight with which layer l reads the maps of layer s; s = 0
    is the block's input, and l = n + 1 the transition or the classifier. NaN: it does not read
    them, or, as transitions of "full" connectivity, has no weights.

    Raises InputError for a network that is no DenseNet.
    """
    if not isinstance(model, DenseNet):
        raise InputError(f"a {type(model).__name__} has no dense blocks: no heat map.")
    found = []
    for b, block in enumerate(model.blocks):
        k = model.config.growth_rate * model.config.growth_factor**b
        inputs = block[0].conv1.kernel.shape[2]
        kernels = [layer.conv1.kernel[...] for layer in block]
        last = b + 1 == len(model.blocks)
        reader = model.classifier if last else getattr(model.transitions[b], "conv", None)
        kernels.append(None if reader is None else reader.kernel[...])
        raw = np.full((len(kernels), len(kernels)), np.nan)
        for i, kernel in enumerate(kernels):
            if kernel is None:
                continue
            is_layer = i < len(block)
            read = layers_read(model.config, i + 1) if is_layer else range(len(kernels))
            # Of each channel: over positions and outputs, in the order of layers_read.
            weights = np.abs(np.asarray(kernel)).mean((0, 1, 3) if kernel.ndim == 4 else 1)
            ends = np.cumsum([k if s else inputs for s in read])[:-1]
            raw[list(read), i] = [part.mean() for part in np.split(weights, ends)]
        found.append(raw)
    return found


def rescale(raw: np.ndarray) -> np.ndarray:
    """Each column of a heat map from 0 to 1, as the papers show it; 1 where it has one entry."""
    low, high = np.nanmin(raw, 0, initial=np.inf), np.nanmax(raw, 0, initial=-np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = (raw - low) / (high - low)
    return np.where(np.isnan(raw), np.nan, np.where(high > low, scaled, 1.0))


def reuse(raw: np.ndarray) -> np.ndarray:
    """How much each source of a heat map is used, `[n + 1]`: 1 if as much as others are.

    The mean over its readers of its weight over the mean weight of all they read.
    """
    return _mean(raw / _mean(raw, 0), 1)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Of what is not NaN; NaN of nothing."""
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis) / (~np.isnan(values)).sum(axis)
