"""The logits of every example of a split, on the host."""

from typing import NamedTuple

import numpy as np

from densenet_jax.data.batches import PADDING


class Outputs(NamedTuple):
    """The outputs of a network for a split, in stored order.

    Attributes:
      logits: `[examples, classes]`, means over the crops.
      labels: `[examples]`, or `[examples, classes]` for several labels.
      read: `[examples]`, False for pictures that cannot be read; their logits and labels are 0.
    """

    logits: np.ndarray
    labels: np.ndarray
    read: np.ndarray

    @classmethod
    def empty(cls, examples: int, classes: int, label_shape: tuple[int, ...]) -> "Outputs":
        """Returns outputs without any example, for `fill`."""
        return cls(
            np.zeros((examples, classes), np.float32),
            np.zeros((examples, *label_shape), np.int32),
            np.zeros(examples, bool),
        )

    def fill(self, logits: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> None:
        """Writes the examples of a dispatch, `[steps, batch, ...]`, without its padding."""
        is_example = indices != PADDING
        rows = indices[is_example]
        self.logits[rows], self.labels[rows] = logits[is_example], labels[is_example]
        self.read[rows] = True

    def only_read(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the logits and the labels of the examples that could be read."""
        return self.logits[self.read], self.labels[self.read]
