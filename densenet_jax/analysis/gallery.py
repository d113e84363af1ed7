"""Draws pictures with the classes that a network predicts."""

import math
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from densenet_jax.analysis.activation_maps import ActivationMaps
from densenet_jax.analysis.style import save, styled
from densenet_jax.data.pictures import load
from densenet_jax.predict import Prediction

_COLUMNS = 4
_INCHES = 3.0
_MAPS = 3  # Classes of which maps are drawn.
_NO_LIMIT = sys.maxsize  # The pictures have been decoded before, so their size is acceptable.


@styled
def plot_predictions(results: list[tuple[Path, list[Prediction]]], path: Path) -> None:
    """Draws each picture above bars of its class probabilities to `path`."""
    columns = min(_COLUMNS, len(results))
    rows = math.ceil(len(results) / columns)
    figure = Figure(figsize=(_INCHES * columns, 1.6 * _INCHES * rows))
    axes = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[1, 0.6] * rows)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (source, predictions) in enumerate(results):
        row, column = divmod(i, columns)
        picture, bars = axes[2 * row][column], axes[2 * row + 1][column]
        picture.imshow(load(source, max_pixels=_NO_LIMIT))
        picture.set_title(source.name, fontsize=9, parse_math=False)
        bars.set_axis_on()
        places = range(len(predictions), 0, -1)
        bars.barh(places, [p.probability for p in predictions], color="tab:blue", alpha=0.4)
        for place, prediction in zip(places, predictions, strict=True):
            text = f"{prediction.name} {prediction.probability:.1%}"
            bars.text(0.02, place, text, va="center", fontsize=8, parse_math=False)
        bars.set(xlim=(0, 1), yticks=[], xticks=[])
        for side in bars.spines.values():
            side.set_visible(False)
        bars.grid(False)
    save(figure, path)


@styled
def plot_activation_maps(
    found: list[tuple[Path, ActivationMaps]], results: dict[Path, list[Prediction]], path: Path
) -> None:
    """Draws a row for each picture to `path`: the picture, and maps of its best classes over it.

    The colours of a row share one scale, from 0 to the largest value of its maps.
    """
    columns = 1 + min(_MAPS, max(len(predictions) for predictions in results.values()))
    figure = Figure(figsize=(_INCHES * columns, 1.15 * _INCHES * len(found)))
    axes = figure.subplots(len(found), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, (source, (image, maps, _)) in zip(axes, found, strict=True):
        row[0].imshow(image.squeeze(), cmap="gray")
        row[0].set_title(source.name, fontsize=9, parse_math=False)
        best = results[source][: columns - 1]
        most = max(float(maps[..., p.label].max()) for p in best)
        height, width = image.shape[:2]
        for axis, prediction in zip(row[1:], best, strict=False):
            values = Image.fromarray(maps[..., prediction.label].astype("float32"))
            values = values.resize((width, height), Image.Resampling.BILINEAR)
            axis.imshow(Image.fromarray(image.squeeze()).convert("L"), cmap="gray")
            axis.imshow(np.asarray(values), cmap="viridis", alpha=0.6, vmin=0, vmax=max(most, 1e-6))
            text = f"{prediction.name} {prediction.probability:.1%}"
            axis.set_title(text, fontsize=9, parse_math=False)
    save(figure, path)
