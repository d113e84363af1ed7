"""Ensembles: several networks whose probabilities are averaged, such as the snapshots of a run."""

import functools
import logging
from collections.abc import Callable, Collection

import jax.numpy as jnp
import numpy as np

from densenet_jax.data.batches import Batch
from densenet_jax.errors import InputError
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.config import snapshot_steps
from densenet_jax.train.losses import Loss
from densenet_jax.train.outputs import Outputs
from densenet_jax.train.progress import means, of_pictures
from densenet_jax.train.step import batch_totals
from densenet_jax.train.trainer import TOP, Trainer


def ensemble_error(trainer: Trainer, checkpoints: Checkpoints) -> dict[str, float]:
    """Returns `ensemble_test_error`, in percent, of all snapshots of a run that has trained.

    Reports a snapshot that is missing or damaged, and returns nothing then.
    """
    checkpoints.wait()
    try:
        members = snapshot_outputs(trainer, checkpoints)
    except InputError as error:
        logging.getLogger(__name__).warning("the ensemble was not evaluated: %s", error)
        return {}
    return {"ensemble_test_error": errors(trainer, average(members.values()))["test_error"]}


def snapshot_outputs(
    trainer: Trainer, checkpoints: Checkpoints, split: str = "test", crops: int = 1
) -> dict[int, Outputs]:
    """Returns the outputs of each snapshot of a run, by step.

    Raises InputError if a snapshot is missing or damaged.
    """
    found = {}
    for step in snapshot_steps(trainer.config, len(trainer.data.train)):
        state, _ = checkpoints.restore(trainer.state_like, step)
        found[step] = trainer.logits(state, split, crops)
    return found


def average(members: Collection[Outputs]) -> Outputs:
    """Returns outputs whose probabilities are the mean probabilities of `members`.

    The logits of several classes are the logarithms of these probabilities.
    """
    first, *_ = members

    def log_mean(logarithm: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        # Logarithms, because probabilities of 0 and 1 have no finite logits.
        logarithms = (logarithm(member.logits.astype(np.float64)) for member in members)
        return functools.reduce(np.logaddexp, logarithms) - np.log(len(members))

    if first.labels.ndim == 2:
        logits = log_mean(lambda x: -np.logaddexp(0, -x)) - log_mean(lambda x: -np.logaddexp(0, x))
    else:
        logits = log_mean(lambda x: x - np.logaddexp.reduce(x, axis=-1, keepdims=True))
    return first._replace(logits=logits)


def errors(trainer: Trainer, outputs: Outputs) -> dict[str, float]:
    """Returns the values of `Trainer.evaluate` without the loss, for outputs of the test split."""
    logits, labels = outputs.only_read()
    loss = Loss("cross_entropy" if labels.ndim == 1 else "sigmoid")
    batch = Batch(jnp.empty(0), jnp.asarray(labels), jnp.ones(len(labels), jnp.float32))
    totals = batch_totals(jnp.asarray(logits, jnp.float32), batch, loss)
    values = {"test_error": means(totals, "test")["test_error"]}
    if trainer.data.streamed:
        has_top5 = logits.shape[1] > TOP and labels.ndim == 1
        values |= of_pictures(totals, "test", len(outputs.read), has_top5)
    return values
