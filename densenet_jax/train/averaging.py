"""Stochastic weight averaging: the mean of the weights at the ends of the last epochs.

Izmailov et al., UAI 2018. Running statistics are recomputed for the averaged parameters, as the
mean of the statistics of every training batch.
"""

from typing import Any

import jax
from flax import nnx
from jax import lax

from densenet_jax.models.layers import MOMENTUM
from densenet_jax.train.step import DROPOUT, StepContext, TrainState, of_step


def statistics_steps(
    network: TrainState, sums: Any, images, labels, indices, epoch, *, context: StepContext
) -> Any:
    """Adds to `sums` the changes of the running statistics in each step of a `feed.Dispatch`.

    Nothing is trained: each step begins with the statistics of `network`.
    """

    def step(i, sums):
        batch = context.training_batch(*of_step(i, images, labels, indices), epoch)
        model = context.model(network)
        nnx.reseed(model, dropout=jax.random.fold_in(context.key(DROPOUT), i))
        model(batch.images, train=True, mask=batch.mask)
        new = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return jax.tree.map(lambda total, a, b: total + a - b, sums, new, network.batch_stats)

    if len(indices) == 1:  # A single step needs no loop, see `step.train_steps`.
        return step(0, sums)
    return lax.fori_loop(0, len(indices), step, sums)


def recomputed(batch_stats: Any, sums: Any, steps: int) -> Any:
    """Returns the mean statistics of `steps` batches, from the sums of `statistics_steps`."""
    return jax.tree.map(lambda old, total: old + total / (MOMENTUM * steps), batch_stats, sums)
