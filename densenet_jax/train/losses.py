"""Training losses, and the number of errors, of a batch with one or several labels per example."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from densenet_jax.data.batches import Batch
from densenet_jax.data.dataset import UNKNOWN, Dataset
from densenet_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss of logits `[N, classes]` and labels.

    Attributes:
      kind: "cross_entropy"; "squared_hinge", its sum over one-against-the-rest classifiers; both
        for labels `[N]`. "sigmoid": binary cross-entropy of each label, for labels `[N, classes]`,
        which are 1, 0 or UNKNOWN.
      label_smoothing: share of the cross-entropy's target that all classes get equally.
      class_weights: weight of the examples of each class, or, for "sigmoid", of the examples that
        have each label; empty: all weigh 1.
    """

    kind: str
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()

    @property
    def plain(self) -> "Loss":
        """The loss that evaluation reports: without smoothing and weights."""
        return Loss(self.kind)

    def __call__(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns the loss of each example, `[N]`, before the division by `divisors`."""
        if self.kind == "sigmoid":
            weight = jnp.asarray(self.class_weights or 1, logits.dtype)
            loss = jnp.where(
                labels == 1, weight * jax.nn.softplus(-logits), jax.nn.softplus(logits)
            )
            return jnp.where(labels == UNKNOWN, 0, loss).sum(-1)
        if self.kind == "squared_hinge":
            signs = 2 * jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) - 1
            return jnp.square(jnp.maximum(1 - signs * logits, 0)).sum(-1)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        if self.label_smoothing:
            uniform = -jax.nn.log_softmax(logits).mean(-1)
            loss = (1 - self.label_smoothing) * loss + self.label_smoothing * uniform
        return loss * self.divisors(labels, loss.dtype)

    def divisors(self, labels: jax.Array, dtype) -> jax.Array:
        """Returns how much each example counts in the mean loss, `[N]`, as in PyTorch.

        That is the weight of its class, or the number of its known labels.
        """
        if self.kind == "sigmoid":
            return label_counts(labels, dtype)
        if not self.class_weights:
            return jnp.ones(len(labels), dtype)
        return jnp.asarray(self.class_weights, dtype)[labels]


def of_both(function: Callable[[jax.Array], jax.Array], batch: Batch) -> jax.Array:
    """Returns a function of labels, `[N]`, averaged over the labels of mixed images by share."""
    if batch.partners is None:
        return function(batch.labels)
    others, share = batch.partners
    return share * function(batch.labels) + (1 - share) * function(others)


def label_counts(labels: jax.Array, dtype) -> jax.Array:
    """Returns the number of known labels of each example, `[N]`: 1 for labels `[N]`."""
    known = (labels != UNKNOWN).astype(dtype)
    return known if labels.ndim == 1 else known.sum(-1)


def error_counts(logits: jax.Array, labels: jax.Array, dtype) -> jax.Array:
    """Returns the number of wrong predictions for each example, `[N]`. Ties and NaN are wrong.

    Of several labels, those with a logit above 0 are predicted.
    """
    if labels.ndim == 1:
        return (logits.argmax(-1) != labels).astype(dtype)
    right = jnp.where(labels == 1, logits > 0, logits < 0)
    return (~right & (labels != UNKNOWN)).astype(dtype).sum(-1)


def class_weights(wanted: str | None, data: Dataset) -> tuple[float, ...]:
    """Returns the weights that the config key `class_weights` names, empty if it is unset.

    With "auto" a class weighs N / (classes x its number of training examples), as in scikit-learn.
    The examples that have a label weigh as much as those without it: (number without) / (number
    with). Raises InputError if no training example has a class, or if every one has a label, or for
    a wrong list of numbers.
    """
    if not wanted:
        return ()
    if wanted != "auto":
        return _listed(wanted, data.num_classes)
    labels = _training_labels(data)
    if labels.ndim == 2:
        counts, others = (labels == 1).sum(0), (labels == 0).sum(0)
    else:
        counts = np.bincount(labels, minlength=data.num_classes)
        others = np.full(data.num_classes, len(labels) / data.num_classes)
    for how_many, found in (("no", counts), ("every", others)):
        if not found.all():
            missing = int(np.argmin(found > 0))
            name = data.classes[missing] if data.classes else missing
            raise InputError(
                f"class_weights is 'auto', but {how_many} training example has the class {name!r}: "
                "give a number for each class instead"
            )
    return tuple((others / counts).tolist())


def _listed(wanted: str, count: int) -> tuple[float, ...]:
    try:
        weights = tuple(float(word) for word in wanted.split(","))
    except ValueError:
        weights = ()
    if (
        len(weights) != count
        or not all(0 <= weight < 1e6 for weight in weights)
        or not any(weights)
    ):
        raise InputError(
            f"class_weights is {wanted!r:.200}: use 'auto', or {count} numbers such as '1,2.5' for "
            "each class in order, of at least 0 and not all 0"
        )
    return weights


def _training_labels(data: Dataset) -> np.ndarray:
    labels = getattr(data.train, "labels", None)
    if labels is None:
        raise InputError(
            f"class_weights is 'auto', but the labels of {data.name} are known only when its "
            "pictures are read: give a number for each class instead"
        )
    return np.asarray(labels)


def config_loss(config: ConfigDict, data: Dataset) -> Loss:
    """Returns the loss of a config. Raises InputError if it does not suit the labels of `data`."""
    if (config.loss == "sigmoid") != data.multilabel:
        has = "several labels" if data.multilabel else "one class"
        loss = "'sigmoid'" if data.multilabel else "'cross_entropy'"
        raise InputError(
            f"loss is {config.loss!r}, but each example of {config.data.name} has {has}: set loss "
            f"to {loss}"
        )
    return Loss(config.loss, config.label_smoothing, class_weights(config.class_weights, data))
