"""What a training step costs on a target: found by compiling it, nothing is run."""

import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from densenet_jax.analysis.counts import (
    activation_bytes,
    count_macs,
    count_params,
    count_touched,
)
from densenet_jax.analysis.targets import ANALYTIC, Target
from densenet_jax.data import sources
from densenet_jax.data.preprocessing import preprocess
from densenet_jax.models.catalog import model_config
from densenet_jax.models.settings import NetworkConfig
from densenet_jax.train.config import check_config, model_settings
from densenet_jax.train.trainer import Trainer, memory_bytes

# Of a device's memory, what a step may take; the rest is the runtime's and lost to fragmentation.
USABLE = 0.9

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8}
_COLLECTIVE = re.compile(
    r" = (.*?) (?:all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
    r"(?:-start)?\((.*)"
)
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


def plan(config: ConfigDict, target: Target) -> dict:
    """What a training step of `config` takes on `target`, of which one device is meant.

    What the compiler does not tell is None; so is `memory`, where it gives up for lack of memory.

    Raises:
      InputError: a wrong config, or a batch that the devices cannot share.
    """
    trainer = _trainer(config, target)
    compiled = _compile(trainer)
    memory, costs, text = None, {}, ""
    if compiled:
        memory, costs, text = (
            memory_bytes(compiled),
            compiled.cost_analysis() or {},
            compiled.as_text(),
        )
    macs = count_macs(trainer.model_config, *trainer.data.image_shape[:2])
    network = trainer.model_config
    most = target.peak_flops and most_images_per_second(config, network, target)
    images = config.epochs * len(trainer.data.train)
    cycles = [int(n) for n in re.findall(r'"estimated_cycles":"(\d+)"', text)]
    return {
        "model": config.model.name,
        "settings": given_settings(config),
        "target": target.name,
        "chips": target.chips,
        "batch_size": config.batch_size,
        "dtype": config.dtype,
        "remat": getattr(trainer.model_config, "remat", "none"),
        "params": trainer.params,
        "macs": macs,
        "memory": memory,
        "memory_limit_bytes": _limit(target),
        "fits": memory is not None and memory["total_bytes"] <= _limit(target),
        "flops": costs.get("flops"),
        "bytes_accessed": costs.get("bytes accessed"),
        "estimated_cycles": sum(cycles) or None,
        "collective_bytes": collective_bytes(text) if compiled else None,
        "most_images_per_second": most,
        "epochs": config.epochs,
        "least_hours": most and images / most / 3600,
        "jax": jax.__version__,
    }


def most_images_per_second(config: ConfigDict, network: NetworkConfig, target: Target) -> float:
    """What all chips could train on, if only convolutions took time, and ran as fast as can be.

    A training step has them three times: forward, and for the gradients of inputs and of weights.
    Each time either the arithmetic takes longer, or reading the input from memory and writing the
    output to it, which is taken for granted: no convolution is fused with the next.
    """
    height, width, _ = sources.image_shape(config.data.name, config.data.image_size)
    # Convolutions of float32 run as TF32 on a GPU, half as fast, and in bfloat16 on a TPU.
    slower = 2 if config.dtype != "bfloat16" and target.platform == "cuda" else 1
    arithmetic = 2 * count_macs(network, height, width) * slower / target.peak_flops
    size = jnp.dtype(config.dtype).itemsize
    memory = count_touched(network, height, width) * size / target.bandwidth
    return target.chips / (3 * max(arithmetic, memory))


def analyse(config: ConfigDict) -> dict:
    """What can be said of a training step of `config` without compiling it, at once.

    `memory` is what the step must hold at least: parameters, gradients and momentum, and what the
    network keeps for its backward pass.

    Raises InputError for a wrong config.
    """
    check_config(config)
    height, width, channels = sources.image_shape(config.data.name, config.data.image_size)
    classes = sources.describe(config.data.name).num_classes
    settings = {"num_classes": classes, "in_channels": channels} | model_settings(config)
    network = model_config(config.model.name, **settings)
    params, batch_size = count_params(network), config.batch_size
    of_params = params * jnp.dtype(network.param_dtype).itemsize
    memory = {
        "activations_bytes": activation_bytes(network, height, width, batch_size),
        "params_bytes": of_params,
        "gradients_bytes": of_params,
        "momentum_bytes": of_params,
    }
    return {
        "model": config.model.name,
        "settings": given_settings(config),
        "target": ANALYTIC,
        "batch_size": batch_size,
        "dtype": config.dtype,
        "remat": getattr(network, "remat", "none"),
        "params": params,
        "macs": count_macs(network, height, width),
        "memory": memory | {"total_bytes": sum(memory.values())},
    }


def given_settings(config: ConfigDict) -> dict:
    """The fields of the network that `config` sets."""
    return {k: v for k, v in config.model.items() if k != "name" and v is not None}


def max_batch(config: ConfigDict, target: Target, say: Callable[[str], None]) -> int:
    """The largest batch that fits `target`, to a fiftieth; 0 if no batch does.

    Memory is nearly linear in the batch: a line through two batches gives a guess, which is
    compiled as well and gives a better line. `say` is told of each compilation.
    """
    chips, limit = target.chips, _limit(target)

    def total(batch_size: int) -> float:
        with config.unlocked():
            tried = ConfigDict(config, convert_dict=False)
        tried.batch_size = batch_size
        say(f"compiling for a batch of {batch_size}")
        compiled = _compile(_trainer(tried, target))
        return memory_bytes(compiled)["total_bytes"] if compiled else math.inf

    small = 8 * chips
    low, high = total(small), total(2 * small)
    if low > limit:
        small, low, high = chips, total(chips), total(2 * chips)
    if low > limit:
        return 0
    if high > limit:
        return small
    best, used = 2 * small, high
    # Of tiny steps a larger one may take less; then a line through nothing at all.
    slope = (high - low) / small if high > low else high / best
    while True:
        guess = best + int((limit - used) / slope)
        guess -= guess % chips
        if guess <= 1.02 * best:
            return best
        took = total(guess)
        if took <= limit:
            slope = max((took - used) / (guess - best), slope / 2)
            best, used = guess, took
        else:
            slope = max(slope * 1.02, min((took - used) / (guess - best), slope * 2))


def collective_bytes(program: str) -> dict[str, int]:
    """Bytes that a compiled program's collective operations produce, loops counted once.

    "gradients" are those of the backward pass, "statistics" all others: mostly batch statistics.
    """
    total = {"statistics": 0, "gradients": 0}
    for shapes, rest in _COLLECTIVE.findall(program):
        name = re.search(r'op_name="([^"]*)"', rest)
        kind = "gradients" if name and "transpose(" in name[1] else "statistics"
        total[kind] += sum(
            _BYTES.get(type_, 4) * math.prod(int(n) for n in dimensions.split(",") if n)
            for type_, dimensions in _SHAPE.findall(shapes)
        )
    return total


def _trainer(config: ConfigDict, target: Target) -> Trainer:
    # A set that is smaller than the batch, as the synthetic ones may be, is taken to be as large.
    data = sources.describe(config.data.name, least=config.batch_size)
    data = preprocess(data, config.data.preprocessing)
    return Trainer(config, data=data, devices=target.devices(), place=_note)


def _note(tree, sharding: jax.sharding.Sharding):
    """Where arrays would lie."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding), tree
    )


def _compile(trainer: Trainer) -> jax.stages.Compiled | None:
    """The compiled training step; None if the compiler finds that it needs too much memory."""
    try:
        return trainer.lower("train").compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None


def _limit(target: Target) -> int:
    return int(USABLE * target.memory_bytes)
