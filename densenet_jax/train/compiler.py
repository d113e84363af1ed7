"""Compiles programs, with options for each kind of device."""

import contextlib
import functools
import gc
import logging
import math
import os
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import jaxlib
from ml_collections import ConfigDict

# The environment variable that makes CUDA load all kernels of a library at once. A kernel that is
# loaded at its first use cannot be recorded into a CUDA graph: the program ends with status 5003.
EAGER_LOADING = ("CUDA_MODULE_LOADING", "EAGER")

_GRAPHS = "xla_gpu_enable_command_buffer"
# XLA's default kinds of operations in CUDA graphs, and convolutions. If the host launched
# convolutions and the few kernels between them one by one, an H100 would wait a fourth of the step.
_IN_GRAPHS = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONDITIONAL,CONVOLUTION"


def compiler_options(config: ConfigDict, platform: str) -> dict[str, bool | str]:
    """Returns the options of the compiler for `platform`: "cpu", "gpu" or "tpu"."""
    options: dict[str, bool | str] = {}
    if platform == "gpu" and config.deterministic:  # Other platforms need no option.
        options["xla_gpu_deterministic_ops"] = True
    name, eager = EAGER_LOADING
    # A user's XLA_FLAGS are left alone.
    is_free = _GRAPHS not in os.environ.get("XLA_FLAGS", "")
    if platform == "gpu" and os.environ.get(name) == eager and is_free:
        options[_GRAPHS] = _IN_GRAPHS
    return options


def compile_program(
    lowered: jax.stages.Lowered, config: ConfigDict, platform: str
) -> jax.stages.Compiled:
    """Compiles a program for `platform`.

    Warns, and leaves convolutions out of CUDA graphs, if this jaxlib does not know the option.
    """
    options = compiler_options(config, platform)
    if _GRAPHS in options:
        load_cudnn(tuple(d for d in jax.local_devices() if d.platform == "gpu"), config.dtype)
    try:
        return lowered.compile(options or None)
    except jax.errors.JaxRuntimeError as error:
        if _GRAPHS not in options or _GRAPHS not in str(error):
            raise
        logging.warning(
            "this jaxlib (%s) does not record convolutions into CUDA graphs: steps are slower",
            jaxlib.__version__,
        )
        del options[_GRAPHS]
        return lowered.compile(options or None)


@functools.cache
def load_cudnn(devices: tuple[jax.Device, ...], dtype: str) -> None:
    """Runs a convolution on each device, outside of CUDA graphs.

    cuDNN cannot be loaded while a graph is recorded. The tuning of a program loads it, but a
    program from the compile cache is not tuned.
    """
    convolve = jax.jit(functools.partial(jax.lax.conv, window_strides=(1, 1), padding="SAME"))
    for device in devices:
        images = jnp.ones((8, 16, 32, 32), dtype, device=device)
        kernel = jnp.ones((16, 16, 3, 3), dtype, device=device)
        jax.block_until_ready(convolve(images, kernel))


@contextlib.contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pauses the collector while a program is traced, of whose time it would take a quarter."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def compile_if_possible(
    compile_step: Callable[[], jax.stages.Compiled],
) -> jax.stages.Compiled | None:
    """Returns the compiled program, or None if the compiler runs out of memory for it."""
    try:
        return compile_step()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None


def total_bytes(compiled: jax.stages.Compiled | None) -> float:
    """Returns the memory of a program on a device, infinite for None."""
    return memory_bytes(compiled)["total_bytes"] if compiled else math.inf


def memory_bytes(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Returns the memory of a program on a device, by kind.

    The total counts output that takes the place of an argument once.
    """
    analysis = compiled.memory_analysis()
    kinds = ("temp", "argument", "output", "alias", "generated_code")
    memory = {f"{kind}_bytes": getattr(analysis, f"{kind}_size_in_bytes") for kind in kinds}
    return memory | {"total_bytes": sum(memory.values()) - 2 * memory["alias_bytes"]}
