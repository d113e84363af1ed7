"""Figures of merit of predictions: by class, and of the probabilities (calibration)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from densenet_jax.data.dataset import UNKNOWN
from densenet_jax.predict import probabilities

BINS = 15  # Of equal width, for the calibration error.
_LARGEST_TEMPERATURE = 100.0  # And its inverse is the smallest.


class Bins(NamedTuple):
    """Predictions by their confidence.

    Attributes:
      confidence, accuracy: means over the predictions of each bin, NaN for empty bins.
      counts: number of predictions in each bin.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error (Guo et al., ICML 2017), from 0 to 1."""
        gaps = np.abs(self.confidence - self.accuracy)
        return float(np.nansum(gaps * self.counts) / self.counts.sum())


def decisions(found: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the confidence of each prediction, and whether it is right.

    Args:
      found: probabilities `[N, classes]`.
      labels: `[N]`, or `[N, classes]` for several labels; each known label is then a prediction.
    """
    if labels.ndim == 1:
        return found.max(-1), found.argmax(-1) == labels
    known = labels != UNKNOWN
    confidence = np.maximum(found, 1 - found)
    return confidence[known], ((found > 0.5) == (labels == 1))[known]


def reliability(found: np.ndarray, labels: np.ndarray) -> Bins:
    """Sorts predictions into bins by confidence."""
    confidence, right = decisions(found, labels)
    which = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(which, minlength=BINS)
    with np.errstate(invalid="ignore"):  # Empty bins.
        means = [np.bincount(which, x, BINS) / counts for x in (confidence, right)]
    return Bins(means[0], means[1], counts)


def negative_log_likelihood(found: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean negative log-likelihood of the labels, of all known ones."""
    tiny = np.finfo(np.float64).tiny
    if labels.ndim == 1:
        of_label = found[np.arange(len(labels)), labels]
    else:
        of_label = np.where(labels == 1, found, 1 - found)[labels != UNKNOWN]
    return float(-np.log(np.maximum(of_label, tiny)).mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """Returns the temperature that minimises the negative log-likelihood of held-out examples.

    Returns None if no temperature does. If all predictions are right, the likelihood rises without
    end as the temperature falls; if they are no better than chance, as it rises.
    """
    from scipy.optimize import minimize_scalar

    several = labels.ndim == 2
    if decisions(probabilities(logits, several), labels)[1].all():
        return None

    def loss(log_temperature: float) -> float:
        found = probabilities(logits / np.exp(log_temperature), several)
        return negative_log_likelihood(found, labels)

    limit = np.log(_LARGEST_TEMPERATURE)
    found = minimize_scalar(loss, bounds=(-limit, limit), method="bounded").x
    return float(np.exp(found)) if abs(found) < 0.99 * limit else None


def by_class(found: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns a row for each class: examples, error, precision, recall, specificity and so on.

    Errors are in percent: of the examples of the class, or of its known labels if examples have
    several. AUROC and AP (average precision) compare the class with the rest; they are None, as is
    any quotient by 0, for a class without positive or without negative examples.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    rows = []
    single = labels.ndim == 1
    predicted = found.argmax(-1)
    for number, name in enumerate(names):
        scores = found[:, number]
        known = np.full(len(labels), True) if single else labels[:, number] != UNKNOWN
        true = (labels == number if single else labels[:, number] == 1)[known]
        chosen = (predicted == number if single else scores > 0.5)[known]
        hits, positives = int((true & chosen).sum()), int(true.sum())
        has_both = 0 < positives < len(true)
        wrong = positives - hits if single else int((true != chosen).sum())
        precision, recall = _ratio(hits, int(chosen.sum())), _ratio(hits, positives)
        negatives = len(true) - positives
        error = _ratio(wrong, positives if single else len(true))
        rows.append(
            {
                "class": name,
                "examples": positives,
                "error": None if error is None else 100 * error,
                "precision": precision,
                "recall": recall,
                "specificity": _ratio(int((~true & ~chosen).sum()), negatives),
                "f1": _ratio(2 * hits, int(chosen.sum()) + positives),
                "auroc": float(roc_auc_score(true, scores[known])) if has_both else None,
                "average_precision": (
                    float(average_precision_score(true, scores[known])) if has_both else None
                ),
            }
        )
    return rows


def summary(found: np.ndarray, labels: np.ndarray, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns figures over all classes; macro means leave out classes in `without_auroc`.

    The balanced accuracy is the mean recall of the classes. If examples have several labels, it is
    the mean over labels of (recall + specificity) / 2.

    Args:
      rows: the figures of each class, see `by_class`.
    """
    _, right = decisions(found, labels)
    parts = ("recall",) if labels.ndim == 1 else ("recall", "specificity")
    accuracies = [
        np.mean([row[p] for p in parts]) for row in rows if None not in map(row.get, parts)
    ]
    aurocs = [row["auroc"] for row in rows if row["auroc"] is not None]
    precisions = [row["average_precision"] for row in rows if row["auroc"] is not None]
    return {
        "examples": len(labels),
        "error": 100 * float((~right).mean()),
        "balanced_accuracy": 100 * float(np.mean(accuracies)) if accuracies else None,
        "macro_auroc": float(np.mean(aurocs)) if aurocs else None,
        "macro_average_precision": float(np.mean(precisions)) if precisions else None,
        "without_auroc": [row["class"] for row in rows if row["auroc"] is None],
        "nll": negative_log_likelihood(found, labels),
        "calibration_error": reliability(found, labels).error,
    }


def confusion(found: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the number of examples `[classes, classes]` by true and by predicted class."""
    counts = np.zeros((found.shape[1], found.shape[1]), int)
    np.add.at(counts, (labels, found.argmax(-1)), 1)
    return counts


def _ratio(numerator: int, denominator: int) -> float | None:
    return numerator / denominator if denominator else None
