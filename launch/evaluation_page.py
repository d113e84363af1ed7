"""Writes the page of `launch.evaluate --report`, without scripts and external files."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from densenet_jax.analysis.evaluation_figures import legible
from densenet_jax.errors import counted

_CONFUSIONS = 10  # Most frequent confusions in the table.
_NAMED = 20  # Names in a sentence; the rest are counted.
_STYLE = """
:root { color-scheme: light dark; --line: #8886; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 { margin-top: 2.5rem; }
h1, p { overflow-wrap: anywhere; }
.error { font-size: 1.25rem; }
.scroll { margin: 1rem 0; overflow-x: auto; }
.scroll:focus-visible { outline: 2px solid; }
img { background: white; border-radius: .3rem; display: block; height: auto; max-width: 100%; }
.wide img { max-width: none; width: max(100%, 44rem); }
.huge img { max-width: none; width: max(100%, 110rem); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .75rem; text-align: right; }
th { font-weight: 600; }
th:first-child, .names :is(td, th) { text-align: left; }
.names :is(td, th):last-child { text-align: right; }
"""
_COLUMNS = {
    "class": "class",
    "examples": "examples",
    "error": "error, %",
    "precision": "precision",
    "recall": "recall",
    "specificity": "specificity",
    "f1": "F1",
    "auroc": "AUROC",
    "average_precision": "average precision",
}


def page(
    directory: Path,
    title: str,
    metrics: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    confusion: np.ndarray | None,
    classes: Sequence[str],
) -> str:
    """Returns the page, with the figures in `directory`.

    Args:
      metrics: the content of metrics.json.
      rows: figures by class, see `evaluation.by_class`.
      confusion: see `evaluation.confusion`; None if examples have several labels.
      classes: names of the classes for readers.
    """
    size = "huge" if len(classes) > 30 else "wide"
    by_class = [
        [name, *(_cell(key, row[key]) for key in list(_COLUMNS)[1:])]
        for name, row in zip(classes, rows, strict=True)
    ]
    parts = [
        f"<h1>{_escaped(title)}</h1>",
        f'<p class="error">{metrics["error"]:.2f} % error on '
        f"{counted(metrics['examples'], 'test example')}</p>",
        _table("Key figures", _key_figures(metrics)),
        _left_out(metrics),
        "<h2>Calibration</h2>",
        f"<p>{_calibration(metrics)}</p>",
        _picture(directory, "reliability.png", "Accuracy and number of predictions by confidence"),
    ]
    if confusion is not None:
        parts += [
            "<h2>Confusion</h2>",
            _confusions(confusion, classes),
            _picture(directory, "confusion.png", "Predicted classes by true class", size),
        ]
    parts += [
        "<h2>Classes</h2>",
        _table("Figures by class", by_class, list(_COLUMNS.values())),
        "<h2>Worst mistakes</h2>",
        _picture(directory, "worst.png", "Test images with the least probable true class", "wide")
        or "<p>There are no mistakes.</p>",
    ]
    head = (
        '<meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_escaped(title)}</title><style>{_STYLE}</style>"
    )
    body = "\n".join(filter(None, parts))
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n'
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _key_figures(metrics: Mapping[str, Any]) -> list[list[str]]:
    names = {
        "balanced_accuracy": "balanced accuracy, %",
        "macro_auroc": "macro AUROC",
        "macro_average_precision": "macro average precision",
        "nll": "negative log-likelihood",
        "calibration_error": "expected calibration error",
    }
    return [[name, _cell(key, metrics[key])] for key, name in names.items()]


def _left_out(metrics: Mapping[str, Any]) -> str:
    """Returns what the figures do not cover: classes without examples, unreadable pictures."""
    sentences = []
    if without := metrics["without_auroc"]:
        sentences.append(
            f"Macro figures leave out {counted(len(without), 'class')} without positive or without "
            f"negative test examples: {_some(without)}."
        )
    if skipped := metrics["skipped_pictures"]:
        sentences.append(
            f"{counted(len(skipped), 'picture')} could not be read, and no figure includes them: "
            f"{_some(skipped)}."
        )
    return "".join(f"<p>{sentence}</p>" for sentence in sentences)


def _calibration(metrics: Mapping[str, Any]) -> str:
    temperature, held_out = metrics["temperature"], metrics["held_out"]
    if not held_out:
        return (
            "No temperature was fitted, because there are no held-out validation images: evaluate "
            "a run that was trained with <code>--config.data.holdout=N</code>."
        )
    if temperature is None:
        return (
            f"No temperature minimises the negative log-likelihood of the {held_out:,} held-out "
            "validation images: the network predicts all of them right, or no better than chance. "
            "Hold out more images with <code>--config.data.holdout=N</code>."
        )
    table = [
        [name, _cell(key, metrics[key]), _cell(key, metrics[f"{key}_with_temperature"])]
        for name, key in (
            ("expected calibration error", "calibration_error"),
            ("negative log-likelihood", "nll"),
        )
    ]
    header = ["test set", "temperature 1", f"temperature {temperature:.3f}"]
    return (
        f"The temperature {temperature:.3f} minimises the negative log-likelihood of the "
        f"{held_out:,} held-out validation images. The test set did not choose it.</p>"
        f"{_table('Calibration', table, header)}<p>"
        "The expected calibration error has 15 bins of equal width."
    )


def _confusions(counts: np.ndarray, classes: Sequence[str]) -> str:
    """Returns a table of the most frequent confusions."""
    mistakes = counts - np.diag(np.diag(counts))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = [np.unravel_index(flat, counts.shape) for flat in order]
    rows = [
        [classes[true], classes[predicted], f"{counts[true, predicted]:,}"]
        for true, predicted in pairs
        if mistakes[true, predicted]
    ]
    if not rows:
        return ""
    header = ["true class", "predicted class", "examples"]
    return _table("Most frequent confusions", rows, header, "names")


def _picture(directory: Path, name: str, description: str, size: str = "") -> str:
    """Returns a figure, which scrolls if `size` is "wide" or "huge"; "" if there is no file."""
    path = directory / name
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{description}" src="data:image/png;base64,{data}">'
    return _scrolling(description, image, size)


def _table(
    label: str, rows: Sequence[Sequence[str]], header: Sequence[str] = (), kind: str = ""
) -> str:
    head = "".join(f'<th scope="col">{_escaped(name)}</th>' for name in header)
    lines = "\n".join(
        f'<tr><th scope="row">{_escaped(first)}</th>'
        f"{''.join(f'<td>{_escaped(value)}</td>' for value in others)}</tr>"
        for first, *others in rows
    )
    thead = f"<thead><tr>{head}</tr></thead>" if head else ""
    return _scrolling(label, f"<table>{thead}<tbody>{lines}</tbody></table>", kind)


def _scrolling(label: str, content: str, kind: str) -> str:
    """Returns a part that scrolls sideways on small screens, also by keyboard."""
    classes = f"scroll {kind}".strip()
    return f'<div class="{classes}" tabindex="0" role="region" aria-label="{label}">{content}</div>'


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(map(_escaped, names[:_NAMED])) + (f" and {more:,} more" if more > 0 else "")


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    # Percentages have two digits after the point, as in the output of the command.
    return f"{value:.2f}" if key in ("error", "balanced_accuracy") else f"{value:.4f}"


def _escaped(text: object) -> str:
    return html.escape(legible(text))
