"""Stochastic weight averaging: the mean of the weights at the ends of the last epochs.

Izmailov et al., UAI 2018. Running statistics are recomputed for the averaged parameters, as the
mean of the statistics of every training batch.
"""

from typing import Any

import jax
from flax import nnx
from jax import lax

from densenet_jax.models.layers import MOMENTUM
from densenet_jax.train.step import DROPOUT, TrainState, of_step


def statistics_steps(
    network: TrainState, sums: tuple[Any, Any], images, labels, indices, epoch, *, context
) -> tuple[Any, Any]:
    """Adds to `sums` the number of batches in a `feed.Dispatch`, and their changes of statistics.

    Nothing is trained: each batch begins with the running statistics of `network`. Dropout draws
    other masks for each batch.
    """
    key = jax.random.fold_in(context.key(DROPOUT), network.step)

    def step(i, sums):
        batches, changes = sums
        batch = context.training_batch(*of_step(i, images, labels, indices), epoch)
        model = context.model(network)
        nnx.reseed(model, dropout=jax.random.fold_in(key, batches))
        model(batch.images, train=True, mask=batch.mask)
        new = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        changes = jax.tree.map(lambda total, a, b: total + a - b, changes, new, network.batch_stats)
        return batches + 1, changes

    if len(indices) == 1:  # A single step needs no loop, see `step.train_steps`.
        return step(0, sums)
    return lax.fori_loop(0, len(indices), step, sums)


def recomputed(batch_stats: Any, sums: tuple[Any, Any]) -> Any:
    """Returns the mean statistics of all batches, from the sums of `statistics_steps`."""
    batches, changes = sums
    return jax.tree.map(lambda old, total: old + total / (MOMENTUM * batches), batch_stats, changes)
