"""Writes the report of `launch.evaluate --report`: predictions, figures, and a page with all."""

import base64
import csv
import dataclasses
import html
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from densenet_jax.analysis import evaluation
from densenet_jax.analysis.style import COLOURS, save, styled
from densenet_jax.data.dataset import UNKNOWN
from densenet_jax.errors import InputError
from densenet_jax.files import write_durably

WORST = 24  # Mistakes on the contact sheet.
_COLUMNS = 6
_NUMBERED = 20  # Most classes whose counts are written into the confusion matrix.
_FILES = ("predictions.csv", "classes.csv", "metrics.json", "index.html", "confusion.png",
          "reliability.png", "worst.png")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """The predictions of a network.

    Attributes:
      title: names the network and the pictures.
      logits, labels: `[N, classes]`, and `[N]` or `[N, classes]`, of the test examples.
      names: a name or path of each example.
      classes: names of the classes.
      image: returns the image of an example, for the contact sheet.
      held_out: logits and labels of held-out validation examples, for the temperature, or None.
      skipped: number of pictures that cannot be read, which are not among the N.
    """

    title: str
    logits: np.ndarray
    labels: np.ndarray
    names: Sequence[str]
    classes: Sequence[str]
    image: Callable[[int], Any]
    held_out: tuple[np.ndarray, np.ndarray] | None = None
    skipped: int = 0

    @property
    def multilabel(self) -> bool:
        return self.labels.ndim == 2


def check(directory: Path) -> None:
    """Raises InputError if `directory` holds anything but an earlier report."""
    if directory.exists() and not directory.is_dir():
        raise InputError(f"--report is {directory}, which is a file: name a directory")
    others = [path.name for path in directory.glob("*") if path.name not in _FILES]
    if others:
        raise InputError(
            f"--report is {directory}, which holds other files, such as {others[0]}: name a new "
            "directory"
        )


def write(directory: Path, found: Evaluated) -> dict[str, Any]:
    """Writes the report; returns the content of metrics.json."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in _FILES:  # Of an earlier report, which may have had more of them.
        (directory / name).unlink(missing_ok=True)
    probabilities = evaluation.probabilities(found.logits, found.multilabel)
    metrics = evaluation.summary(probabilities, found.labels, found.classes)
    metrics |= {"skipped": found.skipped, **_calibrated(found)}
    rows = evaluation.by_class(probabilities, found.labels, found.classes)
    write_durably(directory / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    _write_csv(directory / "classes.csv", [list(rows[0]), *([*row.values()] for row in rows)])
    _write_csv(directory / "predictions.csv", _predictions(found, probabilities))
    _plot_reliability(evaluation.reliability(probabilities, found.labels), directory)
    if not found.multilabel:
        _plot_confusion(found, probabilities, directory)
    mistakes = _mistakes(found, probabilities)
    if mistakes:
        _plot_mistakes(found, mistakes, directory)
    write_durably(directory / "index.html", _page(directory, found, metrics, rows))
    return metrics


def _calibrated(found: Evaluated) -> dict[str, float | None]:
    """Returns the temperature of held-out examples, and the test figures with it."""
    if found.held_out is None:
        return {"temperature": None}
    temperature = evaluation.fit_temperature(*found.held_out)
    scaled = evaluation.probabilities(found.logits, found.multilabel, temperature)
    return {
        "temperature": temperature,
        "nll_with_temperature": evaluation.negative_log_likelihood(scaled, found.labels),
        "calibration_error_with_temperature": evaluation.reliability(scaled, found.labels).error,
    }


def _predictions(found: Evaluated, probabilities: np.ndarray) -> list[list]:
    """Returns the lines of predictions.csv; unknown labels are empty."""
    if found.multilabel:
        header = ["path", *(f"label:{name}" for name in found.classes), *found.classes]
        labels = [["" if y == UNKNOWN else y for y in row] for row in found.labels.tolist()]
    else:
        header = ["path", "label", "predicted", *found.classes]
        best = probabilities.argmax(-1)
        labels = [
            [found.classes[y], found.classes[p]] for y, p in zip(found.labels, best, strict=True)
        ]
    lines = zip(found.names, labels, probabilities.tolist(), strict=True)
    return [header, *([name, *label, *(f"{p:.7g}" for p in row)] for name, label, row in lines)]


def _write_csv(path: Path, rows: list[list]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_durably(path, text.getvalue())


def _mistakes(found: Evaluated, probabilities: np.ndarray) -> list[tuple[int, str]]:
    """Returns the worst mistakes, by the probability of the truth: an example and a caption."""
    if found.multilabel:
        truth = np.where(found.labels == 1, probabilities, 1 - probabilities)
        truth[found.labels == UNKNOWN] = 1
    else:
        right = np.arange(len(found.labels)), found.labels
        truth = np.ones_like(probabilities)
        is_wrong = probabilities.argmax(-1) != found.labels
        truth[right] = np.where(is_wrong, probabilities[right], 1)
    captions = []
    for flat in np.argsort(truth, axis=None, kind="stable")[:WORST]:
        i, label = map(int, np.unravel_index(flat, truth.shape))
        if found.multilabel:
            if truth[i, label] > 0.5:
                break
            negation = "" if found.labels[i, label] == 1 else "not "
            caption = f"{negation}{found.classes[label]}\n{probabilities[i, label]:.1%}"
        else:
            if truth[i, label] == 1:
                break
            best = int(probabilities[i].argmax())
            caption = (
                f"{found.classes[label]} {truth[i, label]:.1%}\n"
                f"predicted {found.classes[best]} {probabilities[i, best]:.1%}"
            )
        captions.append((i, caption))
    return captions


@styled
def _plot_mistakes(found: Evaluated, mistakes: list[tuple[int, str]], directory: Path) -> None:
    rows = -(-len(mistakes) // _COLUMNS)
    figure = Figure(figsize=(1.9 * _COLUMNS, 2.35 * rows))
    axes = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (i, caption) in zip(axes.flat, mistakes, strict=False):
        image = np.squeeze(found.image(i))
        if image.dtype != np.uint8:  # Preprocessed images have no fixed scale.
            image = (image - image.min()) / max(np.ptp(image), 1e-9)
        axis.imshow(image, cmap="gray")
        axis.set_title(caption, fontsize=8, parse_math=False)
    save(figure, directory / "worst.png")


@styled
def _plot_confusion(found: Evaluated, probabilities: np.ndarray, directory: Path) -> None:
    """Draws the share of each class's examples that is predicted as each class."""
    count = len(found.classes)
    counts = np.zeros((count, count), int)
    np.add.at(counts, (found.labels, probabilities.argmax(-1)), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(4 + 0.35 * count, 14)
    figure = Figure(figsize=(side, side))
    axis = figure.subplots()
    axis.grid(False)
    shown = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shown, ax=axis, shrink=0.7, label="share of the true class")
    size = 9 if count <= _NUMBERED else max(4, 9 * _NUMBERED / count)
    ticks = range(count)
    for kind, rotation in (("x", 90), ("y", 0)):
        getattr(axis, f"set_{kind}ticks")(
            ticks, found.classes, fontsize=size, rotation=rotation, parse_math=False
        )
    axis.set(xlabel="predicted", ylabel="true")
    if count <= _NUMBERED:
        for (i, j), number in np.ndenumerate(counts):
            if number:
                colour = "white" if shares[i, j] > 0.5 else "black"
                axis.text(j, i, f"{number:,}", ha="center", va="center", fontsize=7, color=colour)
    save(figure, directory / "confusion.png")


@styled
def _plot_reliability(bins: evaluation.Bins, directory: Path) -> None:
    figure = Figure(figsize=(5, 5.5))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges = np.arange(evaluation.BINS) / evaluation.BINS
    width = 1 / evaluation.BINS
    upper.bar(edges, np.nan_to_num(bins.accuracy), width, align="edge", color=COLOURS[0],
              edgecolor="white", label="accuracy")  # fmt: skip
    upper.plot([0, 1], [0, 1], color=COLOURS[1], linestyle="--", label="calibrated")
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    upper.legend(loc="upper left")
    lower.bar(edges, bins.counts, width, align="edge", color=COLOURS[5], edgecolor="white")
    lower.set(xlabel="confidence", ylabel="predictions")
    save(figure, directory / "reliability.png")


_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
img { background: white; border-radius: .3rem; height: auto; max-width: 100%; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .75rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
"""


def _page(directory: Path, found: Evaluated, metrics: dict, rows: list[dict]) -> str:
    """Returns a page without scripts and external files."""
    key_figures = {
        "examples": metrics["examples"],
        "pictures that cannot be read": metrics["skipped"],
        "error, %": metrics["error"],
        "balanced accuracy, %": metrics["balanced_accuracy"],
        "macro AUROC": metrics["macro_auroc"],
        "macro average precision": metrics["macro_average_precision"],
        "negative log-likelihood": metrics["nll"],
        "expected calibration error": metrics["calibration_error"],
    }
    if metrics["temperature"] is None:
        calibration = (
            "No temperature was fitted, because the run held out no validation images: train with "
            "--config.data.holdout=N."
        )
    else:
        calibration = (
            f"Temperature {metrics['temperature']:.3f}, fitted on the held-out validation images, "
            f"changes the calibration error from {metrics['calibration_error']:.4f} to "
            f"{metrics['calibration_error_with_temperature']:.4f} and the negative log-likelihood "
            f"from {metrics['nll']:.4f} to {metrics['nll_with_temperature']:.4f}."
        )
    without = ", ".join(metrics["without_auroc"])
    parts = [
        f"<h1>{html.escape(found.title)}</h1>",
        _table([["", ""], *([name, value] for name, value in key_figures.items())]),
        f"<p>Macro figures leave out: {html.escape(without)}.</p>" if without else "",
        f"<h2>Calibration</h2><p>{calibration}</p>",
        _picture(directory, "reliability.png", "Accuracy by confidence"),
        "" if found.multilabel else "<h2>Confusion</h2>",
        _picture(directory, "confusion.png", "Counts of predicted classes by true class"),
        "<h2>Classes</h2>",
        _table([list(rows[0]), *([*row.values()] for row in rows)]),
        "<h2>Worst mistakes</h2>",
        _picture(directory, "worst.png", "Pictures with the least probable true class")
        or "<p>There are no mistakes.</p>",
    ]
    head = f"<title>{html.escape(found.title)}</title><style>{_STYLE}</style>"
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{viewport}{head}</head>'
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _picture(directory: Path, name: str, description: str) -> str:
    path = directory / name
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{description}" src="data:image/png;base64,{data}"></p>'


def _table(rows: list[list]) -> str:
    head, *body = rows
    header = "".join(f'<th scope="col">{_cell(value)}</th>' for value in head)
    lines = "".join(
        f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>" for row in body
    )
    thead = f"<thead><tr>{header}</tr></thead>" if any(head) else ""
    return f'<div class="scroll" tabindex="0"><table>{thead}<tbody>{lines}</tbody></table></div>'


def _cell(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.4f}"
    return html.escape(f"{value:,}" if isinstance(value, int) else str(value).replace("_", " "))
