"""How a network learns: the train state, and pure functions from state to state."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from densenet_jax.data import batches
from densenet_jax.data.augmentation import Augmentation
from densenet_jax.data.batches import Batch
from densenet_jax.train.flat import Layout

# One stream of random numbers for each purpose.
INIT, AUGMENT, DROPOUT, COLOR = range(4)


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

    `top5_errors` are those where the right answer is not among the five best.

    And over batches: how many there were before the loss became infinite or no number.
    """

    loss: jax.Array
    errors: jax.Array
    top5_errors: jax.Array
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
    augmentation: Augmentation | None
    loss: str
    label_smoothing: float
    companion_weight: optax.Schedule
    # Whether a loop of steps keeps the train state as few flat vectors, see flat.py.
    flat_loop: bool = False

    @property
    def wide_dtype(self):
        """The type of losses and parameters."""
        return jnp.promote_types(self.dtype, jnp.float32)

    def key(self, purpose: int) -> jax.Array:
        return random_key(self.seed, purpose)

    def model(self, state: TrainState) -> nnx.Module:
        return nnx.merge(self.graphdef, state.params, state.batch_stats, self.other)

    def batch(self, images, labels, indices) -> Batch:
        """Of images as they lie in files."""
        return batches.normalize(images, labels, indices, self.mean, self.std, self.dtype)

    def training_batch(self, images, labels, indices, epoch) -> Batch:
        """The same with the augmentation of `epoch`, if there is one."""
        changes = self.augmentation
        if changes is None:
            return self.batch(images, labels, indices)
        keys = [jax.random.fold_in(self.key(purpose), epoch) for purpose in (COLOR, AUGMENT)]
        batch = self.batch(changes.of_colors(images, indices, keys[0]), labels, indices)
        return batch._replace(images=changes.of_place(batch.images, indices, keys[1]))


def random_key(seed: int, purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), purpose)


def losses(
    logits: jax.Array, labels: jax.Array, kind: str, label_smoothing: float = 0.0
) -> jax.Array:
    """Of each example, `[N]`: "cross_entropy", or the "squared_hinge" of each class summed.

    Of the target of the cross-entropy, `label_smoothing` is shared equally by all classes.
    """
    if kind == "cross_entropy":
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        if not label_smoothing:
            return loss
        of_all = -jax.nn.log_softmax(logits).mean(-1)
        return (1 - label_smoothing) * loss + label_smoothing * of_all
    signs = 2 * jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) - 1
    return jnp.square(jnp.maximum(1 - signs * logits, 0)).sum(-1)


def sums(logits: jax.Array, batch: Batch, kind: str, label_smoothing: float = 0.0) -> Sums:
    """Losses and wrong answers, summed over the examples that are not padding."""
    loss = losses(logits, batch.labels, kind, label_smoothing)
    wrong = (logits.argmax(-1) != batch.labels).astype(loss.dtype)
    # Of equal logits none is preferred: the right one comes last, as it does if it is no number.
    right = jnp.take_along_axis(logits, batch.labels[:, None], -1)
    missed = ((~(logits < right)).sum(-1) > 5).astype(loss.dtype)
    mask = batch.mask.astype(loss.dtype)
    total = (loss * mask).sum()
    is_finite = jnp.isfinite(total).astype(loss.dtype)
    return Sums(total, (wrong * mask).sum(), (missed * mask).sum(), mask.sum(), is_finite)


def train_step(
    state: TrainState, batch: Batch, learner: Learner, layout: Layout | None = None
) -> tuple[TrainState, Sums]:
    """Runs one step of SGD on the mean loss of `batch` plus the losses of companion classifiers.

    With a `layout`, parameters, statistics and optimiser state are its flat vectors.
    """

    def mean_loss(params):
        trees = dataclasses.replace(state, params=params)
        if layout:
            trees = dataclasses.replace(
                trees,
                params=layout.params.unpack(params, kernels=learner.dtype),
                batch_stats=layout.batch_stats.unpack(state.batch_stats),
            )
        model = learner.model(trees)
        nnx.reseed(model, dropout=jax.random.fold_in(learner.key(DROPOUT), state.step))
        logits = model(batch.images, train=True, mask=batch.mask)
        totals = sums(logits, batch, learner.loss, learner.label_smoothing)
        objective = totals.loss / totals.examples
        for companion_logits in jax.tree.leaves(nnx.state(model, nnx.Intermediate)):
            companion = sums(companion_logits, batch, learner.loss, learner.label_smoothing)
            weight = learner.companion_weight(state.step)
            objective += weight * companion.loss / companion.examples
        batch_stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        if layout:
            batch_stats = layout.batch_stats.pack(batch_stats)
        return objective, (totals, batch_stats)

    grads, (totals, batch_stats) = jax.grad(mean_loss, has_aux=True)(state.params)
    updates, opt_state = learner.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state), totals


def eval_step(state: TrainState, batch: Batch, learner: Learner) -> Sums:
    """Loss and wrong answers on `batch`, by the running statistics.

    Of images `[N, crops, H, W, C]`, the logits of all crops are added.
    """
    crops = batch.images.reshape(-1, *batch.images.shape[-3:])
    logits = learner.model(state)(crops, train=False)
    logits = logits.reshape(len(batch.labels), -1, logits.shape[-1]).sum(1)
    return sums(logits, batch, learner.loss)


def train_steps(
    state: TrainState, totals: Sums, images, labels, indices, epoch, *, learner: Learner
) -> tuple[TrainState, Sums]:
    """Runs the steps that `feed.Batches` describes, all in one epoch, and adds to `totals`.

    `epoch` is an array, so that one compilation serves the whole run.
    """
    layout = None

    def one(i, carry):
        state, totals = carry
        batch = learner.training_batch(*_of_step(i, images, labels, indices), epoch)
        state, new = train_step(state, batch, learner, layout)
        return state, totals + new

    if not learner.flat_loop or len(indices) == 1:
        return _repeat(one, len(indices), (state, totals))
    layout = Layout.of(state.params, state.batch_stats)
    flat, totals = _repeat(one, len(indices), (layout.flatten(state), totals))
    return layout.restore(flat, like=state), totals


def eval_steps(
    state: TrainState, totals: Sums, images, labels, indices, *, learner: Learner
) -> Sums:
    """Adds the steps that `feed.Batches` describes to `totals`."""

    def one(i, totals):
        batch = learner.batch(*_of_step(i, images, labels, indices))
        return totals + eval_step(state, batch, learner)

    return _repeat(one, len(indices), totals)


def _of_step(i, images, labels, indices):
    """The images, labels and indices of step `i`."""
    if labels.ndim == 2:  # A stream brings those of the step.
        return images[i], labels[i], indices[i]
    some = jnp.maximum(indices[i], 0)
    return images[some], labels[some], indices[i]


def _repeat(body, steps: int, carry):
    # No loop around a single step: XLA's CPU backend runs convolutions inside loops on a slow
    # path (27 to 40 times slower in a small test, with jaxlib 0.10 and 0.12). A loop has a static
    # number of steps: otherwise a GPU's host would wait for the loop's condition in each step.
    return body(0, carry) if steps == 1 else lax.fori_loop(0, steps, body, carry)
