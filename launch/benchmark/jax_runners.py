"""Prepares the contestants in JAX: our training step and that of the naive network."""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from densenet_jax.errors import counted
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.train import process
from densenet_jax.train.compiler import memory_bytes
from densenet_jax.train.trainer import Trainer
from experiments import synthetic
from launch.benchmark.jax_naive import NaiveDenseNet
from launch.benchmark.workload import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Runner, Workload


def config_of(workload: Workload) -> ConfigDict:
    """Returns the config that trains our network on `workload`; one epoch is one round."""
    config = synthetic.get_config(workload.model)
    config.update(
        batch_size=workload.batch_size,
        dtype=workload.dtype,
        learning_rate=LEARNING_RATE,
        learning_rate_drops=(),
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        steps_per_dispatch=1 if workload.platform == "cpu" else workload.steps_per_round,
    )
    config.data.examples = workload.batch_size * workload.steps_per_round
    config.model.remat = workload.remat
    config.model.block = workload.block
    config.model.num_classes = workload.network.num_classes
    if workload.depth is not None:
        config.model.depth = workload.depth
    return config


def ours(workload: Workload) -> Runner:
    """Prepares the step of `launch.train`, which also draws its batch, on one device."""
    process.configure(jax_is_unused=True)
    trainer = Trainer(config_of(workload), devices=jax.local_devices()[:1])
    compiled = trainer.compiled("train")
    dispatch = next(trainer.epoch(0))
    state, totals = trainer.initial_state, trainer.totals()

    def run(steps: int) -> None:
        nonlocal state, totals
        while steps > 0:
            state, totals = trainer.train(state, totals, dispatch, 0)
            steps -= dispatch.steps
        jax.block_until_ready(state)

    return _warm(run, trainer.compile_seconds, compiled, workload, len(trainer.data.train))


def naive(workload: Workload) -> Runner:
    """Prepares the step of the naive network, on one fixed batch."""
    state, static = _naive_state(workload.network, jnp.dtype(workload.dtype).type)
    random = np.random.default_rng(0)
    shape = (
        workload.batch_size,
        workload.image_size,
        workload.image_size,
        workload.network.in_channels,
    )
    images = jnp.asarray(random.standard_normal(shape, np.float32))
    labels = jnp.asarray(random.integers(0, workload.network.num_classes, workload.batch_size))
    started = time.monotonic()
    step = jax.jit(functools.partial(_naive_step, static=static), donate_argnums=0)
    compiled = step.lower(state, images, labels).compile()
    compile_seconds = time.monotonic() - started

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state = compiled(state, images, labels)
        jax.block_until_ready(state)

    return _warm(run, compile_seconds, compiled, workload, workload.batch_size)


def _naive_state(config: DenseNetConfig, dtype: DTypeLike) -> tuple[tuple, tuple]:
    """Returns the train state and the static arguments of a step.

    The train state holds parameters, running statistics and the optimiser's state.
    """
    model = NaiveDenseNet(config, dtype=dtype, rngs=nnx.Rngs(0))
    optimizer = optax.chain(
        optax.add_decayed_weights(WEIGHT_DECAY),
        optax.sgd(LEARNING_RATE, momentum=MOMENTUM, nesterov=True),
    )
    graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, statistics = map(nnx.to_pure_dict, states)
    return (params, statistics, optimizer.init(params)), (graphdef, optimizer)


def _naive_step(state: tuple, images: jax.Array, labels: jax.Array, static: tuple) -> tuple:
    params, statistics, opt_state = state
    graphdef, optimizer = static

    def mean_loss(params):
        model = nnx.merge(graphdef, params, statistics)
        logits = model(images).astype(jnp.float32)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    grads, statistics = jax.grad(mean_loss, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), statistics, opt_state


def _warm(
    run: Callable[[int], None],
    compile_seconds: float,
    compiled: jax.stages.Compiled,
    workload: Workload,
    images: int,
) -> Runner:
    """Warms up and measures memory.

    Args:
      images: the number of images in the arguments of the compiled program.
    """
    run(2)
    device, sizes = jax.local_devices()[0], memory_bytes(compiled)
    if workload.platform == "cpu":
        memory, kind = sizes["temp_bytes"], "compiler's temporaries"
        return Runner(run, compile_seconds, memory, kind, device.device_kind)
    memory, kind = sizes["total_bytes"], f"compiler's total, with {counted(images, 'image')}"
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return Runner(run, compile_seconds, memory, kind, device.device_kind, peak)
