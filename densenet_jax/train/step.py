"""How a network learns: the train state, and pure functions from state to state."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from densenet_jax.data import resident

# One stream of random numbers for each purpose.
INIT, AUGMENT, DROPOUT = range(3)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes during a run, as plain nested dicts of arrays."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums over examples: of their loss, of wrong answers, and their number.

    And over batches: how many there were before the loss became infinite or no number.
    """

    loss: jax.Array
    errors: jax.Array
    examples: jax.Array
    finite_batches: jax.Array

    def __add__(self, batch: "Sums") -> "Sums":
        total = jax.tree.map(jnp.add, self, batch)
        finite = jnp.isfinite(total.loss).astype(total.loss.dtype)
        return dataclasses.replace(total, finite_batches=self.finite_batches + finite)


@dataclasses.dataclass(frozen=True)
class Learner:
    """All that stays the same: the network's structure, the optimiser, the treatment of images."""

    graphdef: nnx.GraphDef
    other: Any
    optimizer: optax.GradientTransformation
    seed: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: Any
    augment: bool
    crop_padding: int
    padding_mode: str
    flip: bool
    loss: str
    companion_weight: optax.Schedule

    @property
    def wide_dtype(self):
        """The type of losses and parameters."""
        return jnp.promote_types(self.dtype, jnp.float32)

    def key(self, purpose: int) -> jax.Array:
        return random_key(self.seed, purpose)

    def model(self, state: TrainState) -> nnx.Module:
        return nnx.merge(self.graphdef, state.params, state.batch_stats, self.other)

    def batch(self, images, labels, indices) -> resident.Batch:
        return resident.take(images, labels, indices, self.mean, self.std, self.dtype)


def random_key(seed: int, purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), purpose)


def losses(logits: jax.Array, labels: jax.Array, kind: str) -> jax.Array:
    """Of each example, `[N]`: "cross_entropy", or the "squared_hinge" of each class summed."""
    if kind == "cross_entropy":
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    signs = 2 * jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) - 1
    return jnp.square(jnp.maximum(1 - signs * logits, 0)).sum(-1)


def sums(logits: jax.Array, batch: resident.Batch, kind: str) -> Sums:
    """Losses and wrong answers, summed over the examples that are not padding."""
    loss = losses(logits, batch.labels, kind)
    wrong = (logits.argmax(-1) != batch.labels).astype(loss.dtype)
    mask = batch.mask.astype(loss.dtype)
    total = (loss * mask).sum()
    is_finite = jnp.isfinite(total).astype(loss.dtype)
    return Sums(total, (wrong * mask).sum(), mask.sum(), is_finite)


def train_step(
    state: TrainState, batch: resident.Batch, learner: Learner
) -> tuple[TrainState, Sums]:
    """One step of SGD on the mean loss of `batch`, plus those of the network's companions."""

    def mean_loss(params):
        model = learner.model(dataclasses.replace(state, params=params))
        nnx.reseed(model, dropout=jax.random.fold_in(learner.key(DROPOUT), state.step))
        totals = sums(model(batch.images, train=True, mask=batch.mask), batch, learner.loss)
        objective = totals.loss / totals.examples
        for companion_logits in jax.tree.leaves(nnx.state(model, nnx.Intermediate)):
            companion = sums(companion_logits, batch, learner.loss)
            weight = learner.companion_weight(state.step)
            objective += weight * companion.loss / companion.examples
        batch_stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return objective, (totals, batch_stats)

    grads, (totals, batch_stats) = jax.grad(mean_loss, has_aux=True)(state.params)
    updates, opt_state = learner.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state), totals


def eval_step(state: TrainState, batch: resident.Batch, learner: Learner) -> Sums:
    """Loss and wrong answers on `batch`, by the running statistics."""
    return sums(learner.model(state)(batch.images, train=False), batch, learner.loss)


def train_steps(
    state: TrainState, totals: Sums, images, labels, indices, count, epoch, *, learner: Learner
) -> tuple[TrainState, Sums]:
    """The first `count` steps of `indices` (`[steps, batch]`), within one epoch.

    Adds to `totals`. `count` and `epoch` are arrays, so one compilation serves the whole run.
    """
    epoch_key = jax.random.fold_in(learner.key(AUGMENT), epoch)

    def one(i, carry):
        state, totals = carry
        batch = learner.batch(images, labels, indices[i])
        if learner.augment:
            shifted = resident.augment(
                batch.images,
                indices[i],
                epoch_key,
                learner.crop_padding,
                learner.flip,
                learner.padding_mode,
            )
            batch = batch._replace(images=shifted)
        state, new = train_step(state, batch, learner)
        return state, totals + new

    return _repeat(one, indices.shape[0], count, (state, totals))


def eval_steps(
    state: TrainState, totals: Sums, images, labels, indices, count, *, learner: Learner
) -> Sums:
    """Adds the first `count` batches of `indices` (`[steps, batch]`) to `totals`."""

    def one(i, totals):
        return totals + eval_step(state, learner.batch(images, labels, indices[i]), learner)

    return _repeat(one, indices.shape[0], count, totals)


def _repeat(body, length: int, count, carry):
    # No loop around a single step: XLA's CPU backend runs convolutions inside loops on a slow
    # path (27 to 40 times slower in a small test, with jaxlib 0.10 and 0.12).
    return body(0, carry) if length == 1 else lax.fori_loop(0, count, body, carry)
