"""Writes the report of `launch.evaluate --report`: predictions, figures, and a page with all."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from densenet_jax.analysis import evaluation, evaluation_figures
from densenet_jax.analysis.evaluation_figures import legible
from densenet_jax.data import imagenet
from densenet_jax.data.dataset import UNKNOWN
from densenet_jax.errors import InputError, counted
from densenet_jax.files import check_writable, read_object, unfinished_name, write_durably
from densenet_jax.predict import probabilities
from launch.evaluation_page import page

WORST = 24  # Mistakes on the contact sheet.
_LETTERS = 20  # Longest name above an image.
_FILES = ("metrics.json", "predictions.csv", "classes.csv", "confusion.png", "reliability.png",
          "worst.png", "index.html")  # fmt: skip
# The value of "command" in metrics.json, by which an earlier report is recognised.
_COMMAND = "launch.evaluate --report"


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """The predictions of a network.

    Attributes:
      title: names the network and the pictures.
      logits, labels: `[N, classes]`, and `[N]` or `[N, classes]`, of the test examples.
      names: a name or path of each example.
      classes: names of the classes, as many as the logits have.
      image: returns the image of an example, for the contact sheet.
      held_out: logits and labels of held-out validation examples, for the temperature, or None.
      skipped: names of the pictures that cannot be read, which are not among the N.
    """

    title: str
    logits: np.ndarray
    labels: np.ndarray
    names: Sequence[str]
    classes: Sequence[str]
    image: Callable[[int], Any]
    held_out: tuple[np.ndarray, np.ndarray] | None = None
    skipped: Sequence[str] = ()

    @property
    def multilabel(self) -> bool:
        return self.labels.ndim == 2

    @property
    def readable_classes(self) -> list[str]:
        """The names of the classes, with ImageNet's words instead of its identifiers."""
        words = imagenet.classes()
        return [words.get(name, name) for name in self.classes]


def check(directory: Path, pictures: Path | None = None) -> None:
    """Raises InputError unless `directory` is new, empty or an earlier report; writes nothing.

    Args:
      pictures: directory of the pictures, where a report would be taken for a class.
    """
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"--report {directory} cannot be written: {existing} is a file")
    if pictures and directory.resolve().is_relative_to(pictures.resolve()):
        raise InputError(
            f"--report {directory} is inside the pictures {pictures}: name another directory"
        )
    check_writable(existing, "--report")
    found = {path.name for path in directory.iterdir()} if existing == directory else set()
    found -= {unfinished_name(name) for name in _FILES}
    others = sorted(found.difference(_FILES))
    if found and (read_object(directory / "metrics.json") or {}).get("command") != _COMMAND:
        others = sorted(found)
    if others:
        raise InputError(
            f"--report {directory} holds other files, such as {others[0]}: name a new directory"
        )


def class_names(names: Sequence[str] | None, count: int) -> list[str]:
    """Returns `count` names: the given ones, and numbers for the rest."""
    known = list(names or ())[:count]
    return known + [str(number) for number in range(len(known), count)]


def _probabilities(found: Evaluated, temperature: float = 1.0) -> np.ndarray:
    return probabilities(found.logits.astype(np.float64) / temperature, found.multilabel)


def write(directory: Path, found: Evaluated) -> None:
    """Writes the report. Raises InputError if logits are infinite or NaN."""
    _check_finite(found)
    probabilities = _probabilities(found)
    rows = evaluation.by_class(probabilities, found.labels, found.classes)
    metrics = {"command": _COMMAND, **evaluation.summary(probabilities, found.labels, rows)}
    metrics |= {"skipped": len(found.skipped), "skipped_pictures": list(found.skipped)}
    metrics |= _calibrated(found)
    mistakes = _mistakes(found, probabilities)
    directory.mkdir(parents=True, exist_ok=True)
    for name in _FILES:  # An earlier report may have had more files.
        (directory / unfinished_name(name)).unlink(missing_ok=True)
        (directory / name).unlink(missing_ok=True)
    # First, because it marks the directory as a report.
    write_durably(directory / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    _write_csv(directory / "classes.csv", [list(rows[0]), *([*row.values()] for row in rows)])
    _write_csv(directory / "predictions.csv", _predictions(found, probabilities))
    _draw(directory, found, probabilities, mistakes, metrics["temperature"])
    counts = None if found.multilabel else evaluation.confusion(probabilities, found.labels)
    text = page(directory, found.title, metrics, rows, counts, found.readable_classes)
    write_durably(directory / "index.html", text)


def _check_finite(found: Evaluated) -> None:
    for kind, logits in (("test", found.logits), ("validation", (found.held_out or [None])[0])):
        if logits is not None and (wrong := (~np.isfinite(logits)).any(-1)).any():
            raise InputError(
                f"the network gives NaN or infinity for {counted(int(wrong.sum()), 'example')} of "
                f"{len(logits):,} ({kind}): evaluate another checkpoint or other weights"
            )


def _calibrated(found: Evaluated) -> dict[str, float | None]:
    """Returns the temperature of held-out examples, and the test figures with it."""
    if found.held_out is None:
        return {"held_out": 0, "temperature": None}
    values: dict[str, float | None] = {"held_out": len(found.held_out[0])}
    values["temperature"] = temperature = evaluation.fit_temperature(*found.held_out)
    if temperature is not None:
        scaled = _probabilities(found, temperature)
        values["nll_with_temperature"] = evaluation.negative_log_likelihood(scaled, found.labels)
        bins = evaluation.reliability(scaled, found.labels)
        values["calibration_error_with_temperature"] = bins.error
    return values


def _predictions(found: Evaluated, probabilities: np.ndarray) -> Iterator[list]:
    """Yields the lines of predictions.csv; unknown labels are empty."""
    if found.multilabel:
        yield ["path", *(f"label:{name}" for name in found.classes), *found.classes]
    else:
        yield ["path", "label", "predicted", *found.classes]
    for name, label, shares in zip(found.names, found.labels, probabilities, strict=True):
        if found.multilabel:
            labels = ["" if value == UNKNOWN else value for value in label.tolist()]
        else:
            labels = [found.classes[label], found.classes[shares.argmax()]]
        yield [name, *labels, *(f"{share:.7g}" for share in shares.tolist())]


def _write_csv(path: Path, rows: Iterable[list]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_durably(path, text.getvalue())


def _mistakes(found: Evaluated, probabilities: np.ndarray) -> list[tuple[int, str]]:
    """Returns the worst mistakes, by the probability of the truth: an example and a caption."""
    if found.multilabel:
        truth = np.where(found.labels == 1, probabilities, 1 - probabilities)
        is_wrong = ((probabilities > 0.5) != (found.labels == 1)) & (found.labels != UNKNOWN)
        examples, labels = np.nonzero(is_wrong)
    else:
        truth = probabilities
        examples = np.flatnonzero(probabilities.argmax(-1) != found.labels)
        labels = found.labels[examples]
    worst = np.argsort(truth[examples, labels], kind="stable")[:WORST]
    classes = [legible(name, _LETTERS) for name in found.readable_classes]
    captions = []
    for i, label in zip(examples[worst], labels[worst], strict=True):
        name, chance = found.names[i], f"{probabilities[i, label]:.1%}"
        lines = [legible(name if len(name) <= _LETTERS else Path(name).name, _LETTERS)]
        if found.multilabel:
            negation = "" if found.labels[i, label] == 1 else "not "
            lines += [f"true: {negation}{classes[label]}", f"predicted: {chance}"]
        else:
            best = int(probabilities[i].argmax())
            lines.append(f"true: {classes[label]}, {chance}")
            lines.append(f"predicted: {classes[best]}, {probabilities[i, best]:.1%}")
        captions.append((int(i), "\n".join(lines)))
    return captions


def _draw(
    directory: Path,
    found: Evaluated,
    probabilities: np.ndarray,
    mistakes: list[tuple[int, str]],
    temperature: float | None,
) -> None:
    """Draws the figures. There is no worst.png without mistakes."""
    scaled = None
    if temperature is not None:
        shares = _probabilities(found, temperature)
        scaled = evaluation.reliability(shares, found.labels)
    bins = evaluation.reliability(probabilities, found.labels)
    evaluation_figures.plot_reliability(bins, directory / "reliability.png", scaled, temperature)
    if not found.multilabel:
        counts = evaluation.confusion(probabilities, found.labels)
        names = found.readable_classes
        evaluation_figures.plot_confusion(counts, names, directory / "confusion.png")
    if mistakes:
        images = [found.image(i) for i, _ in mistakes]
        captions = [caption for _, caption in mistakes]
        evaluation_figures.plot_images(images, captions, directory / "worst.png")
