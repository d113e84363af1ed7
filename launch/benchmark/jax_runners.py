"""The contestants in JAX: our training step as it is, and that of the naive network."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from densenet_jax.errors import counted
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.train import process
from densenet_jax.train.trainer import Trainer, memory_bytes
from experiments import synthetic
from launch.benchmark.jax_naive import NaiveDenseNet
from launch.benchmark.job import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Job, Runner


def config_of(job: Job) -> ConfigDict:
    """Returns the config that trains our network as `job` says; an epoch is a turn."""
    config = synthetic.get_config(job.model)
    config.update(
        batch_size=job.batch_size,
        dtype=job.dtype,
        learning_rate=LEARNING_RATE,
        learning_rate_drops=(),
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        steps_per_dispatch=1 if job.platform == "cpu" else job.turn_steps,
    )
    config.data.examples = job.batch_size * job.turn_steps
    config.model.remat = job.remat
    config.model.num_classes = job.network.num_classes
    if job.depth is not None:
        config.model.depth = job.depth
    return config


def ours(job: Job) -> Runner:
    """The step of `launch.train`, drawing its batch from the data set included; on one device."""
    process.configure()
    trainer = Trainer(config_of(job), devices=jax.local_devices()[:1])
    compiled = trainer.compiled("train")
    batches = next(trainer.epoch(0))
    state, sums = trainer.initial_state, trainer.totals()

    def run(steps: int) -> None:
        nonlocal state, sums
        while steps > 0:
            state, sums = trainer.train(state, sums, batches, 0)
            steps -= batches.steps
        jax.block_until_ready(state)

    return _warm(run, trainer.compile_seconds, compiled, job, len(trainer.data.train))


def naive(job: Job) -> Runner:
    state, static = _naive_state(job.network, jnp.dtype(job.dtype).type)
    random = np.random.default_rng(0)
    shape = (job.batch_size, job.image_size, job.image_size, job.network.in_channels)
    images = jnp.asarray(random.standard_normal(shape, np.float32))
    labels = jnp.asarray(random.integers(0, job.network.num_classes, job.batch_size))
    started = time.monotonic()
    step = jax.jit(functools.partial(_naive_step, static=static), donate_argnums=0)
    compiled = step.lower(state, images, labels).compile()
    compile_seconds = time.monotonic() - started

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state = compiled(state, images, labels)
        jax.block_until_ready(state)

    return _warm(run, compile_seconds, compiled, job, job.batch_size)


def _naive_state(config: DenseNetConfig, dtype) -> tuple:
    """(parameters, running statistics, the optimiser's state), and what a step needs too."""
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
    run, compile_seconds: float, compiled: jax.stages.Compiled, job: Job, images: int
) -> Runner:
    """Warms up and measures memory; `images` is the number of images in the program's arguments."""
    run(2)
    device, sizes = jax.local_devices()[0], memory_bytes(compiled)
    if job.platform == "cpu":
        memory, kind = sizes["temp_bytes"], "compiler's temporaries"
        return Runner(run, compile_seconds, memory, kind, device.device_kind)
    memory, kind = sizes["total_bytes"], f"compiler's total, with {counted(images, 'image')}"
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return Runner(run, compile_seconds, memory, kind, device.device_kind, peak)
