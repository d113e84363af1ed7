"""What a training step costs on a target: found by compiling it, nothing is run."""

import dataclasses
import math
import re
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from densenet_jax.analysis.counts import (
    activation_bytes,
    count_fused,
    count_macs,
    count_params,
    count_touched,
)
from densenet_jax.analysis.hlo import COLLECTIVES, instructions
from densenet_jax.analysis.roofline import estimate
from densenet_jax.analysis.targets import ANALYTIC, Target
from densenet_jax.data import sources
from densenet_jax.data.preprocessing import preprocess
from densenet_jax.models.catalog import model_config
from densenet_jax.models.network import NetworkConfig
from densenet_jax.train.config import check_config, model_settings
from densenet_jax.train.feed import STEPS_PER_DISPATCH
from densenet_jax.train.trainer import Trainer, memory_bytes

# Of a device's memory, what a step may take; the rest is the runtime's and lost to fragmentation.
USABLE = 0.9
# The search for the largest batch gives up after this many; memory is nearly linear in the batch,
# so it mostly needs three.
MOST_COMPILATIONS = 8
# The search ends if the largest batch is known to this factor.
_BATCH_FACTOR = 1.02


def plan(config: ConfigDict, target: Target) -> dict:
    """Returns what a training step of `config` takes on one device of `target`.

    What the compiler does not report is None. If the compiler gives up for lack of memory, so are
    `memory` and `estimate`. For `estimate` see `roofline.estimate`.

    Raises:
      InputError: a wrong config, or a batch that the devices cannot share.
    """
    trainer = _trainer(config, target)
    started = time.monotonic()
    compiled = _compile(trainer)
    compile_seconds = time.monotonic() - started
    network, examples = trainer.model_config, len(_official(config).train)
    height, width = trainer.data.image_shape[:2]
    macs = count_macs(network, height, width)
    memory, costs, text, estimated = None, {}, "", None
    if compiled:
        memory, text = memory_bytes(compiled), compiled.as_text()
        costs = compiled.cost_analysis() or {}
        floor_bytes = count_fused(network, height, width) * jnp.dtype(config.dtype).itemsize
        # A training step has each convolution three times.
        floor_operations = 3 * 2 * macs * _slower(config, target)
        estimated = estimate(text, target, config.batch_size, floor_bytes, floor_operations)
    most = target.peak_flops and most_images_per_second(config, network, target)
    images = config.epochs * examples
    cycles = [int(n) for n in re.findall(r'"estimated_cycles":"(\d+)"', text)]
    return {
        "model": config.model.name,
        "settings": given_settings(config),
        "target": target.name,
        "chips": target.chips,
        "batch_size": config.batch_size,
        "dtype": config.dtype,
        "remat": getattr(network, "remat", "none"),
        "params": trainer.params,
        "macs": macs,
        "memory": memory,
        "memory_limit_bytes": _limit(target),
        "fits": memory is not None and memory["total_bytes"] <= _limit(target),
        "flops": costs.get("flops"),
        "bytes_accessed": costs.get("bytes accessed"),
        "estimated_cycles": sum(cycles) or None,
        "collective_bytes": collective_bytes(text) if compiled else None,
        "estimate": estimated,
        "most_images_per_second": most,
        "epochs": config.epochs,
        "least_hours": most and images / most / 3600,
        "compile_seconds": compile_seconds,
        "jax": jax.__version__,
    }


def most_images_per_second(config: ConfigDict, network: NetworkConfig, target: Target) -> float:
    """What all chips could train on, if only convolutions took time, and ran as fast as can be.

    A training step has them three times: forward, and for the gradients of inputs and of weights.
    Each time either the arithmetic takes longer, or reading the input from memory and writing the
    output to it, which is taken for granted: no convolution is fused with the next.
    """
    height, width, _ = sources.image_shape(config.data.name, config.data.image_size)
    operations = 2 * count_macs(network, height, width) * _slower(config, target)
    arithmetic = operations / target.peak_flops
    size = jnp.dtype(config.dtype).itemsize
    memory = count_touched(network, height, width) * size / target.bandwidth
    return target.chips / (3 * max(arithmetic, memory))


def _slower(config: ConfigDict, target: Target) -> int:
    """Returns how much longer a convolution takes than in bfloat16."""
    # Convolutions of float32 run as TF32 on a GPU, half as fast, and in bfloat16 on a TPU.
    return 2 if config.dtype != "bfloat16" and target.platform == "cuda" else 1


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


def max_batch(
    config: ConfigDict, target: Target, say: Callable[[str], None], planned: dict | None = None
) -> int:
    """Returns the largest batch that fits `target`, to a fiftieth; 0 if no batch fits.

    Memory is nearly linear in the batch: a line through two batches gives the next one to compile.
    After `MOST_COMPILATIONS` the largest batch found so far is returned.

    Args:
      say: receives a line before the search, and one after each compilation.
      planned: the result of `plan` for `config`, which saves a compilation.
    """
    chips, limit = target.chips, _limit(target)
    totals, first = {}, ""  # Bytes by batch, infinite if the compiler gave up.
    if planned:
        memory = planned["memory"]
        totals[planned["batch_size"]] = memory["total_bytes"] if memory else math.inf
        first = f"; the first took {planned['compile_seconds']:.0f} s"
    most = f"at most {MOST_COMPILATIONS} more compilations"
    say(f"looking for the largest batch that fits: {most}{first}")
    for count in range(1, MOST_COMPILATIONS + 1):
        batch_size = _next_batch(totals, limit, chips)
        if not batch_size:
            break
        with config.unlocked():
            tried = ConfigDict(config, convert_dict=False)
        tried.batch_size = batch_size
        started = time.monotonic()
        compiled = _compile(_trainer(tried, target))
        total = memory_bytes(compiled)["total_bytes"] if compiled else math.inf
        totals[batch_size] = total
        needs = f"{total / 1e9:.3f} GB" if compiled else "more memory than there is"
        say(
            f"compilation {count} of at most {MOST_COMPILATIONS}: a batch of {batch_size:,} needs "
            f"{needs} of {limit / 1e9:.3f} GB, compiled in {time.monotonic() - started:.0f} s"
        )
    return max((size for size, total in totals.items() if total <= limit), default=0)


def _next_batch(totals: dict[int, float], limit: int, chips: int) -> int:
    """Returns the batch to compile next, a multiple of `chips`; 0 if the search is done."""
    fitting = max((size for size, total in totals.items() if total <= limit), default=0)
    failing = min((size for size, total in totals.items() if total > limit), default=math.inf)
    if not totals:
        return 8 * chips
    if failing - fitting <= chips or failing <= _BATCH_FACTOR * fitting:
        return 0
    finite = (size for size, total in totals.items() if total < math.inf)
    known = sorted(finite, key=lambda size: (abs(totals[size] - limit), -size))
    if known:
        size, *others = known
        # Until there are two batches, a line from the origin, which is too steep.
        slope, least = totals[size] / size, 1.25 * size + chips
        if others:
            line = (totals[others[0]] - totals[size]) / (others[0] - size)
            # Small batches may take equal memory.
            slope, least = (line, 0) if line > 0 else (slope, 8 * size)
        guess = size + (limit - totals[size]) / slope
        if size == fitting:
            guess = max(guess, least)
    else:
        guess = failing / 4
    if guess >= failing:  # The line is wrong.
        guess = (fitting + failing) / 2
    guess = max(int(guess) - int(guess) % chips, chips)
    return 0 if guess <= _BATCH_FACTOR * fitting else guess


def collective_bytes(program: str) -> dict[str, int]:
    """Bytes that a compiled program's collective operations produce, loops counted once.

    "gradients" are those of the backward pass, "statistics" all others: mostly batch statistics.
    """
    total = {"statistics": 0, "gradients": 0}
    for i in instructions(program):
        if i.opcode.startswith(COLLECTIVES) and not i.opcode.endswith("-done"):
            total["gradients" if "transpose(" in i.op_name else "statistics"] += i.bytes
    return total


def _official(config: ConfigDict) -> sources.Dataset:
    # A set that is smaller than the batch, as the synthetic ones may be, is taken to be as large.
    return sources.describe(config.data.name, least=config.batch_size)


def _trainer(config: ConfigDict, target: Target) -> Trainer:
    """Builds the trainer whose program users run on `target`: many steps a dispatch."""
    data = _official(config)
    if target.platform != "cpu" and data.name.startswith("synthetic"):
        # Labels for a whole dispatch. More images would count as memory that no run needs.
        least = (config.steps_per_dispatch or STEPS_PER_DISPATCH) * config.batch_size
        labels = sources.describe(data.name, least).train.labels
        data = dataclasses.replace(data, train=sources.Split(data.train.images, labels))
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
