"""Training and evaluation steps: pure functions from a train state to the next one."""

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
from densenet_jax.models.network import Network
from densenet_jax.train.accumulation import accumulated
from densenet_jax.train.flat import Layout
from densenet_jax.train.freezing import merged, trained
from densenet_jax.train.losses import Loss, error_counts, label_counts, of_both

# The purposes of random numbers. Each purpose has a separate stream.
INIT, AUGMENT, DROPOUT, COLOR, MIX = range(5)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that training changes, as plain nested dicts of arrays.

    Attributes:
      step: number of completed steps of the optimiser.
      params, batch_stats: parameters and running statistics.
      opt_state: state of the optimiser.
      average: averages of `params` and `batch_stats` over steps or epochs, by these names; None:
        the config asks for none.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    average: dict[str, Any] | None = None

    @property
    def weights(self) -> dict[str, Any]:
        """The `params` and `batch_stats` by name."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Totals:
    """Totals over the examples of some batches, as scalars.

    Attributes:
      loss: sum of the losses.
      divisor: the mean loss is `loss / divisor`; see `Loss.divisors`.
      errors: number of wrong predictions: of the class of an example, or of its known labels.
      top5_errors: number of examples whose right class is not among the best five.
      labels: number of known labels, one for each example unless examples have several.
      examples: number of examples.
      finite_batches: number of batches before the sum of the losses became infinite or NaN.
    """

    loss: jax.Array
    divisor: jax.Array
    errors: jax.Array
    top5_errors: jax.Array
    labels: jax.Array
    examples: jax.Array
    finite_batches: jax.Array

    @property
    def mean_loss(self) -> jax.Array:
        """The mean loss, 0 if no label is known."""
        return self.loss / jnp.where(self.divisor == 0, 1, self.divisor)

    def __add__(self, batch: "Totals") -> "Totals":
        total = jax.tree.map(jnp.add, self, batch)
        finite = jnp.isfinite(total.loss).astype(total.loss.dtype)
        return dataclasses.replace(total, finite_batches=self.finite_batches + finite)


@dataclasses.dataclass(frozen=True)
class StepContext:
    """Everything that a step needs and training does not change.

    Attributes:
      graphdef, other: structure of the network, and its variables that are neither parameters nor
        running statistics.
      optimizer: the optimiser with its schedule.
      seed: seed of all random numbers.
      mean, std: normalise each channel of the images, on their scale.
      dtype: type of the feature maps.
      augmentation: changes training images at random; None: leaves them.
      loss: the training loss; evaluation reports `loss.plain`.
      companion_weight: weight of the losses of companion classifiers, by step.
      frozen: paths of the parameters that are not trained, see freezing.py.
      flat_loop: whether a loop of steps keeps the train state as a few flat vectors, see flat.py.
      ema_decay: share of the average that a step keeps; 0: steps leave it.
      accumulate: number of parts of a batch whose gradients a step adds up, one after another.
      unroll: whether the parts are unrolled instead of looped over.
    """

    graphdef: nnx.GraphDef
    other: Any
    optimizer: optax.GradientTransformation
    seed: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: Any
    augmentation: Augmentation | None
    loss: Loss
    companion_weight: optax.Schedule
    frozen: frozenset[str] = frozenset()
    flat_loop: bool = False
    ema_decay: float = 0.0
    accumulate: int = 1
    unroll: bool = False

    @property
    def wide_dtype(self):
        """Type of losses and parameters."""
        return jnp.promote_types(self.dtype, jnp.float32)

    def key(self, purpose: int) -> jax.Array:
        return random_key(self.seed, purpose)

    def model(self, state: TrainState) -> Network:
        """Returns the network with the parameters and statistics of `state`."""
        return nnx.merge(self.graphdef, state.params, state.batch_stats, self.other)

    def batch(self, images, labels, indices) -> Batch:
        """Builds a normalised batch from stored images."""
        return batches.normalize(images, labels, indices, self.mean, self.std, self.dtype)

    def training_batch(self, images, labels, indices, epoch) -> Batch:
        """Builds a normalised batch from stored images, with the augmentation of `epoch`."""
        changes = self.augmentation
        if changes is None:
            return self.batch(images, labels, indices)
        purposes = COLOR, AUGMENT, MIX
        keys = [jax.random.fold_in(self.key(purpose), epoch) for purpose in purposes]
        batch = self.batch(changes.of_colors(images, indices, keys[0]), labels, indices)
        batch = batch._replace(images=changes.of_place(batch.images, indices, keys[1]))
        return changes.of_batch(batch, indices, keys[2])


def random_key(seed: int, purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), purpose)


def batch_totals(logits: jax.Array, batch: Batch, loss: Loss) -> Totals:
    """Returns the totals of a batch, without its padding. Errors of mixed images are averages."""
    labels, losses = batch.labels, of_both(lambda labels: loss(logits, labels), batch)
    dtype = losses.dtype
    mask = batch.mask.astype(dtype)
    missed = jnp.zeros_like(mask)
    if labels.ndim == 1:
        # Ties and NaN count as errors.
        right = jnp.take_along_axis(logits, labels[:, None], -1)
        missed = ((~(logits < right)).sum(-1) > 5).astype(dtype)
    total = (losses * mask).sum()
    return Totals(
        loss=total,
        divisor=_divisor(batch, loss, dtype),
        errors=(of_both(lambda y: error_counts(logits, y, dtype), batch) * mask).sum(),
        top5_errors=(missed * mask).sum(),
        labels=(of_both(lambda labels: label_counts(labels, dtype), batch) * mask).sum(),
        examples=mask.sum(),
        finite_batches=jnp.isfinite(total).astype(dtype),
    )


def _divisor(batch: Batch, loss: Loss, dtype) -> jax.Array:
    divisors = of_both(lambda labels: loss.divisors(labels, dtype), batch)
    return (divisors * batch.mask.astype(dtype)).sum()


def train_step(
    state: TrainState, batch: Batch, context: StepContext, layout: Layout | None = None
) -> tuple[TrainState, Totals]:
    """Runs one step of the optimiser on the mean loss of `batch`, with that of companions.

    With a `layout`, the parameters, statistics and optimiser state are flat vectors in that layout.
    """
    divisor = _divisor(batch, context.loss, context.wide_dtype)
    divisor = jnp.where(divisor == 0, 1, divisor)  # No label is known.

    def mean_loss(params, images: Batch, part: tuple[jax.Array, int] | None = None):
        """Returns the share of `images` in the mean loss, their totals, and new statistics."""
        params = merged(params, state.params)
        trees = dataclasses.replace(state, params=params)
        if layout:
            trees = dataclasses.replace(
                trees,
                params=layout.params.unpack(params, kernels=context.dtype),
                batch_stats=layout.batch_stats.unpack(state.batch_stats),
            )
        model = context.model(trees)
        nnx.reseed(model, dropout=jax.random.fold_in(context.key(DROPOUT), state.step))
        mode = model.mode(train=True, mask=images.mask)._replace(part=part)
        totals = batch_totals(model.logits(images.images, mode), images, context.loss)
        objective = totals.loss / divisor
        for companion_logits in jax.tree.leaves(nnx.state(model, nnx.Intermediate)):
            companion = batch_totals(companion_logits, images, context.loss)
            objective += context.companion_weight(state.step) * companion.loss / divisor
        stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return objective, (totals, layout.batch_stats.pack(stats) if layout else stats)

    params = trained(state.params, context.frozen)
    gradient = jax.grad(mean_loss, has_aux=True)
    if context.accumulate == 1:
        grads, (totals, batch_stats) = gradient(params, batch)
    else:
        grads, (totals, batch_stats) = accumulated(
            gradient, params, state.batch_stats, batch, context.accumulate, context.unroll
        )
    updates, opt_state = context.optimizer.update(grads, state.opt_state, params)
    params = merged(optax.apply_updates(params, updates), state.params)
    new = TrainState(state.step + 1, params, batch_stats, opt_state, state.average)
    if context.ema_decay:  # As in timm, the average includes running statistics.
        average = moved(state.average, new.weights, 1 - context.ema_decay)
        new = dataclasses.replace(new, average=average)
    return new, totals


def moved(average: Any, weights: Any, share: jax.typing.ArrayLike) -> Any:
    """Returns average + share (weights - average)."""
    return jax.tree.map(lambda old, new: old + share * (new - old), average, weights)


def eval_logits(
    state: TrainState, batch: Batch, context: StepContext, mirrored: bool = False
) -> jax.Array:
    """Returns the logits of `batch`, normalised by the running statistics.

    For images `[N, crops, H, W, C]`, adds the logits of all crops. If `mirrored`, adds those of the
    mirror image of each image `[N, H, W, C]`.
    """
    if mirrored:
        both = jnp.stack([batch.images, jnp.flip(batch.images, 2)], 1)
        batch = batch._replace(images=both)
    crops = batch.images.reshape(-1, *batch.images.shape[-3:])
    logits = context.model(state)(crops, train=False)
    return logits.reshape(len(batch.labels), -1, logits.shape[-1]).sum(1)


def train_steps(
    state: TrainState, totals: Totals, images, labels, indices, epoch, *, context: StepContext
) -> tuple[TrainState, Totals]:
    """Runs the training steps of a `feed.Dispatch`, all in one epoch, and adds to `totals`.

    `epoch` is an array, so that one compilation serves the whole run.
    """
    steps = len(indices)
    layout = None
    if context.flat_loop and steps > 1:
        layout = Layout.of(state.params, state.batch_stats)

    def step(i, carry):
        state, totals = carry
        batch = context.training_batch(*of_step(i, images, labels, indices), epoch)
        state, new = train_step(state, batch, context, layout)
        return state, totals + new

    # A single step needs no loop: XLA's CPU backend runs convolutions inside loops on a slow path
    # (27 to 40 times slower in a small test, with jaxlib 0.10 and 0.12). The number of steps is
    # static, because a GPU's host would otherwise wait for the loop's condition in each step.
    if steps == 1:
        return step(0, (state, totals))
    first = layout.flatten(state) if layout else state
    last, totals = lax.fori_loop(0, steps, step, (first, totals))
    return (layout.restore(last, like=state) if layout else last), totals


def eval_steps(
    state: TrainState,
    totals: Totals,
    images,
    labels,
    indices,
    *,
    context: StepContext,
    mirrored: bool = False,
) -> Totals:
    """Runs the evaluation steps of a `feed.Dispatch`, and adds to `totals`.

    Args:
      mirrored: also evaluate the mirror image of each image, and add the logits of both.
    """
    steps = len(indices)

    def step(i, totals):
        batch = context.batch(*of_step(i, images, labels, indices))
        logits = eval_logits(state, batch, context, mirrored)
        return totals + batch_totals(logits, batch, context.loss.plain)

    return step(0, totals) if steps == 1 else lax.fori_loop(0, steps, step, totals)


def logits_steps(
    state: TrainState, images, labels, indices, *, context: StepContext, mirrored: bool = False
) -> tuple:
    """Returns the logits, labels and indices of a `feed.Dispatch`, each `[steps, batch, ...]`."""

    def step(i):
        batch = context.batch(*of_step(i, images, labels, indices))
        return eval_logits(state, batch, context, mirrored), batch.labels

    if len(indices) == 1:  # A single step needs no loop, see `train_steps`.
        return *(value[None] for value in step(0)), indices
    return *lax.map(step, jnp.arange(len(indices))), indices


def of_step(i, images, labels, indices):
    """Returns the images, labels and indices of step `i` of a dispatch."""
    if images.ndim > 4:  # A streamed dispatch holds the examples of its steps, not a whole set.
        return images[i], labels[i], indices[i]
    positions = jnp.maximum(indices[i], 0)
    return images[positions], labels[positions], indices[i]
