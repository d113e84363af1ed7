"""Draws the figures of an evaluation: confusion, calibration and mistakes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from densenet_jax.analysis.evaluation import BINS, Bins
from densenet_jax.analysis.style import COLOURS, save, styled
from densenet_jax.errors import printable

_NUMBERED = 30  # Most classes whose counts are written into the confusion matrix.
_NAMED = 150  # Most classes whose names stand beside the confusion matrix.
_COLUMNS = 4
_LETTERS = 26  # Longest name in a figure.


def legible(text: object, letters: int | None = None) -> str:
    """Returns the text with escapes for characters that cannot be shown, of at most `letters`."""
    found = printable(text).encode("utf-8", "backslashreplace").decode()
    return found if letters is None or len(found) <= letters else f"{found[: letters - 1]}…"


@styled
def plot_confusion(counts: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Draws the share of each class's examples that is predicted as each class."""
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 3.5 + 0.42 * classes if classes <= _NUMBERED else 3.5 + 0.15 * min(classes, _NAMED)
    figure = Figure(figsize=(1.08 * side, side))
    axis = figure.subplots()
    axis.grid(False)
    # The square root makes rare mistakes visible.
    shown = axis.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    figure.colorbar(shown, ax=axis, shrink=0.6, fraction=0.04, pad=0.02, label="share of the class")
    if classes <= _NAMED:
        size = 9 if classes <= _NUMBERED else 7
        labels = [legible(name, _LETTERS) for name in names]
        axis.set_xticks(range(classes), labels, fontsize=size, rotation=90, parse_math=False)
        axis.set_yticks(range(classes), labels, fontsize=size, parse_math=False)
    axis.set(xlabel="predicted class", ylabel="true class")
    if classes <= _NUMBERED:
        for i, j in np.argwhere(counts):
            colour = "white" if shares[i, j] > 0.3 else "black"
            text = f"{counts[i, j]:,}"
            axis.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
    save(figure, path)


@styled
def plot_reliability(
    bins: Bins, path: Path, scaled: Bins | None = None, temperature: float | None = None
) -> None:
    """Draws the accuracy of predictions by their confidence, and the number of predictions.

    Args:
      scaled: the same predictions with `temperature`.
    """
    figure = Figure(figsize=(6.5, 6.5))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.3])
    edges, width = np.arange(BINS) / BINS, 1 / BINS
    upper.bar(edges, np.nan_to_num(bins.accuracy), width, align="edge", color=COLOURS[5],
              edgecolor="white", label="accuracy")  # fmt: skip
    upper.plot([0, 1], [0, 1], color=COLOURS[6], linestyle="--", label="calibrated")
    if scaled:
        upper.plot(scaled.confidence, scaled.accuracy, "o", color=COLOURS[1],
                   label=f"with temperature {temperature:.2f}", clip_on=False)  # fmt: skip
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    upper.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    drawn = lower.bar(edges, bins.counts, width, align="edge", color=COLOURS[5], edgecolor="white")
    # The logarithm makes bins of few predictions visible, and leaves room for the numbers.
    largest = int(bins.counts.max())
    lower.set(xlabel="confidence", ylabel="predictions", yscale="log", ylim=(0.5, 10 * largest))
    numbers = [f"{count:,}" if count else "" for count in bins.counts]
    rotation = 0 if largest < 10_000 else 90
    lower.bar_label(drawn, numbers, fontsize=8, padding=2, rotation=rotation)
    save(figure, path)


@styled
def plot_images(images: Sequence[np.ndarray], captions: Sequence[str], path: Path) -> None:
    """Draws images `[H, W, C]` below their captions."""
    rows = -(-len(images) // _COLUMNS)
    figure = Figure(figsize=(2.5 * _COLUMNS, 3.1 * rows))
    axes = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, caption in zip(axes.flat, images, captions, strict=False):
        image = np.squeeze(image)
        if image.dtype != np.uint8:  # Preprocessed images have no fixed scale.
            image = (image - image.min()) / max(np.ptp(image), 1e-9)
        axis.imshow(image, cmap="gray")
        axis.set_title(caption, fontsize=9, parse_math=False)
    save(figure, path)
