"""Plans a training step on a target: compiles it and reports its cost, without running it."""

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
    count_fused_step_io,
    count_layer_io,
    count_macs,
    count_params,
)
from densenet_jax.analysis.hlo import COLLECTIVES, instructions
from densenet_jax.analysis.roofline import estimate
from densenet_jax.analysis.targets import ANALYTIC, Target
from densenet_jax.data import sources
from densenet_jax.data.preprocessing import preprocess
from densenet_jax.errors import InputError
from densenet_jax.models.catalog import model_config
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.models.forms import choose_form, why_not_kernels
from densenet_jax.models.network import NetworkConfig
from densenet_jax.train.compiler import compile_if_possible, memory_bytes, total_bytes
from densenet_jax.train.config import check_config, model_overrides, model_settings
from densenet_jax.train.feed import STEPS_PER_DISPATCH
from densenet_jax.train.memory_budget import fitting
from densenet_jax.train.trainer import Trainer

# Share of a device's memory that a step may take; the runtime and fragmentation take the rest.
USABLE_MEMORY_SHARE = 0.9
# The search for the largest batch gives up after this number. Memory is nearly linear in the batch,
# so that three mostly suffice.
MAX_COMPILATIONS = 8
# Arrays of an optimiser for each parameter; Muon has two for those that are no convolutions.
_MOMENTS = {"sgd": 1, "adamw": 2, "lamb": 2, "lion": 1, "muon": 1, "rmsprop": 2}
_BATCH_FACTOR = 1.02  # The search ends when the largest batch is known to this factor.


def plan(config: ConfigDict, target: Target) -> dict:
    """Returns the memory and the cost of a training step of `config` on one device of `target`.

    Values that the compiler does not report are None. `memory` and `estimate` are None too if the
    compiler runs out of memory for the step. For `estimate` see `roofline.estimate`. `block` is the
    form of the dense blocks, "xla" or "kernels", and `block_reason` explains the choice. Networks
    without dense blocks have None and an empty reason.

    Raises:
      InputError: the config is wrong, the devices cannot share a batch, or no model.remat fits
        memory_gb.
    """
    config = fitting(config, lambda tried: total_bytes(_compile(_trainer(tried, target))))
    trainer = _trainer(config, target)
    started = time.monotonic()
    compiled = _compile(trainer)
    compile_seconds = time.monotonic() - started
    network, examples = trainer.model_config, len(_official(config).train)
    built, block_reason = choose_form(network, target.devices()[0])
    height, width = trainer.data.image_shape[:2]
    macs = count_macs(network, height, width)
    costs: dict[str, float] = {}
    memory, text, estimated = None, "", None
    if compiled:
        memory, text = memory_bytes(compiled), compiled.as_text() or ""
        costs = compiled.cost_analysis() or {}
        floor_bytes = count_fused_step_io(network, height, width) * jnp.dtype(config.dtype).itemsize
        # A training step runs each convolution three times; a multiply-add is two operations.
        floor_operations = 3 * 2 * macs * _slower(config, target)
        estimated = estimate(text, target, config.batch_size, floor_bytes, floor_operations)
    most = most_images_per_second(config, network, target)
    images = config.epochs * examples
    cycles = [int(n) for n in re.findall(r'"estimated_cycles":"(\d+)"', text)]
    return {
        "model": config.model.name,
        "settings": model_overrides(config),
        "target": target.name,
        "chips": target.chips,
        "batch_size": config.batch_size,
        "dtype": config.dtype,
        "remat": getattr(network, "remat", "none"),
        "block": getattr(built, "block", None),
        "block_reason": block_reason,
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


def most_images_per_second(
    config: ConfigDict, network: NetworkConfig, target: Target
) -> float | None:
    """Returns an upper bound on the training speed of all chips, from convolutions alone.

    A training step runs each convolution three times: forward, and for the gradients of its input
    and of its weights. A convolution takes as long as its arithmetic, or as reading its input from
    memory and writing its output, whichever is longer. Convolutions are not fused with one another.
    Returns None if the peak rates of the target are unknown.
    """
    if target.peak_flops is None or target.bandwidth is None:
        return None
    height, width, _ = sources.image_shape(config.data.name, config.data.image_size)
    operations = 2 * count_macs(network, height, width) * _slower(config, target)
    arithmetic = operations / target.peak_flops
    size = jnp.dtype(config.dtype).itemsize
    memory = count_layer_io(network, height, width) * size / target.bandwidth
    return target.chips / (3 * max(arithmetic, memory))


def _slower(config: ConfigDict, target: Target) -> int:
    """Returns the time of a convolution relative to bfloat16."""
    # A float32 convolution runs as TF32 on a GPU, half as fast, and in bfloat16 on a TPU.
    return 2 if config.dtype != "bfloat16" and target.platform == "cuda" else 1


def analyse(config: ConfigDict) -> dict:
    """Returns the part of `plan` that needs no compilation: size, work and least memory.

    `memory` is a lower bound: parameters, their averages, gradients, momentum (all moments of the
    optimiser), and the activations kept for the backward pass. `block` is None if the form of the
    dense blocks depends on the device. Raises InputError if the config is wrong.
    """
    check_config(config)
    for key in ("freeze", "memory_gb"):
        if config[key]:
            raise InputError(
                f"{key} is {config[key]!r}, whose savings only a compiled step shows: choose "
                f"another --target than {ANALYTIC}"
            )
    height, width, channels = sources.image_shape(config.data.name, config.data.image_size)
    classes = sources.describe(config.data.name).num_classes
    settings = {"num_classes": classes, "in_channels": channels} | model_settings(config)
    network = model_config(config.model.name, **settings)
    params, batch_size = count_params(network), config.batch_size
    block, block_reason = _form_on_any_device(network)
    params_bytes = params * jnp.dtype(network.param_dtype).itemsize
    memory = {
        "activations_bytes": activation_bytes(
            _plain(network), height, width, batch_size // config.accumulate
        ),
        "params_bytes": params_bytes,
        "gradients_bytes": params_bytes,
        "momentum_bytes": params_bytes * _MOMENTS[config.optimizer],
    }
    if config.ema_decay or config.swa_epochs:
        memory["average_bytes"] = params_bytes
    return {
        "model": config.model.name,
        "settings": model_overrides(config),
        "target": ANALYTIC,
        "batch_size": batch_size,
        "dtype": config.dtype,
        "remat": getattr(network, "remat", "none"),
        "block": block,
        "block_reason": block_reason,
        "params": params,
        "macs": count_macs(network, height, width),
        "memory": memory | {"total_bytes": sum(memory.values())},
    }


def _plain(network: NetworkConfig) -> NetworkConfig:
    """Returns the network in plain JAX that keeps the activations that `network` keeps."""
    if not isinstance(network, DenseNetConfig):
        return network
    uses_kernels = network.block == "kernels" and not why_not_kernels(network)
    remat = "concat" if uses_kernels else network.remat
    return dataclasses.replace(network, block="xla", remat=remat)


def _form_on_any_device(network: NetworkConfig) -> tuple[str | None, str]:
    """Returns the form of the dense blocks that follows from the config alone, and the reason."""
    if not isinstance(network, DenseNetConfig):
        return None, ""
    reason = "as configured" if network.block == "xla" else why_not_kernels(network)
    return ("xla", reason) if reason else (None, "depends on the device")


def max_batch(
    config: ConfigDict, target: Target, report: Callable[[str], None], planned: dict | None = None
) -> int:
    """Returns the largest batch size that fits `target`, to 2 %, or 0 if no batch fits.

    Memory is nearly linear in the batch size, so a line through two batch sizes gives the next size
    to compile. After `MAX_COMPILATIONS` the largest size found so far is returned.

    Args:
      report: receives a line before the search, and a line after each compilation.
      planned: the result of `plan` for `config`, if known; it saves a compilation.
    """
    chips, limit = target.chips, _limit(target)
    # Bytes by batch size, infinite if the compiler ran out of memory.
    totals: dict[int, float] = {}
    first = ""
    if planned:
        memory = planned["memory"]
        totals[planned["batch_size"]] = memory["total_bytes"] if memory else math.inf
        first = f"; the first took {planned['compile_seconds']:.0f} s"
    most = f"at most {MAX_COMPILATIONS} more compilations"
    report(f"looking for the largest batch that fits: {most}{first}")
    for count in range(1, MAX_COMPILATIONS + 1):
        batch_size = _next_batch(totals, limit, chips)
        if not batch_size:
            break
        with config.unlocked():
            tried = ConfigDict(config, convert_dict=False)
        tried.batch_size = batch_size
        started = time.monotonic()
        compiled = _compile(_trainer(tried, target))
        total = total_bytes(compiled)
        totals[batch_size] = total
        needs = f"{total / 1e9:.3f} GB" if compiled else "more memory than the device has"
        report(
            f"compilation {count} of at most {MAX_COMPILATIONS}: a batch of {batch_size:,} needs "
            f"{needs} of {limit / 1e9:.3f} GB, compiled in {time.monotonic() - started:.0f} s"
        )
    return max((size for size, total in totals.items() if total <= limit), default=0)


def _next_batch(totals: dict[int, float], limit: int, chips: int) -> int:
    """Returns the batch size to compile next, a multiple of `chips`, or 0 to end the search."""
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
        # With one batch size the line starts at the origin, which is too steep.
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
    """Returns the bytes that the collective operations of a compiled program produce.

    "gradients" are collectives of the backward pass. "statistics" are all others, mostly of batch
    statistics. Each loop counts once.
    """
    total = {"statistics": 0, "gradients": 0}
    for i in instructions(program):
        if i.opcode.startswith(COLLECTIVES) and not i.opcode.endswith("-done"):
            total["gradients" if "transpose(" in i.op_name else "statistics"] += i.bytes
    return total


def _official(config: ConfigDict) -> sources.Dataset:
    # A synthetic set may be smaller than the batch; `least` enlarges it.
    return sources.describe(config.data.name, least=config.batch_size)


def _trainer(config: ConfigDict, target: Target) -> Trainer:
    """Builds the trainer that runs on `target`, with the same number of steps in a dispatch."""
    data = _official(config)
    if target.platform != "cpu" and data.name.startswith("synthetic"):
        # Labels cover a whole dispatch. More images would count as memory that no run needs.
        least = (config.steps_per_dispatch or STEPS_PER_DISPATCH) * config.batch_size
        few, many = data.train, sources.describe(data.name, least).train
        assert isinstance(few, sources.Split) and isinstance(many, sources.Split)
        data = dataclasses.replace(data, train=sources.Split(few.images, many.labels))
    data = preprocess(data, config.data.preprocessing)
    return Trainer(config, data=data, devices=target.devices(), place=_place_abstractly)


def _place_abstractly(tree, sharding: jax.sharding.Sharding):
    """Returns shapes, types and shardings in place of arrays."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding), tree
    )


def _compile(trainer: Trainer) -> jax.stages.Compiled | None:
    """Returns the compiled training step, see `compile_if_possible`."""
    return compile_if_possible(lambda: trainer.lower("train").compile())


def _limit(target: Target) -> int:
    return int(USABLE_MEMORY_SHARE * target.memory_bytes)
