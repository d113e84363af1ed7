"""Chooses the form of the dense blocks: plain JAX, or the GPU kernels of kernel_block.py."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from densenet_jax.models.densenet import DenseNet, DenseNetConfig
from densenet_jax.models.network import NetworkConfig
from densenet_jax.models.post_activation import PostActivationDenseNet

# Names in the kinds of GPUs for which launch/benchmark/NOTES.md records that a step with kernels
# takes at least 10 % less time. On an H200, L=100 does and DenseNet-121 does not.
FASTER_ON: tuple[str, ...] = ()
# Largest number of outputs of a convolution with kernels, by its number of taps. The registers of a
# program cannot hold more sums.
MAX_OUTPUTS = {1: 256, 9: 64}
PLATFORMS = ("gpu", "cpu")  # Platforms with kernels, which are interpreted on CPU.


def build_densenet(config: DenseNetConfig, *, rngs: nnx.Rngs) -> DenseNet:
    """Builds the DenseNet that `config` describes. For `block="auto"` see `choose_form`."""
    if config.post_activation:
        return PostActivationDenseNet(config, rngs=rngs)
    if config.block != "kernels" or why_not_kernels(config):
        return DenseNet(config, rngs=rngs)
    # Importing Pallas takes 0.3 s, which few programs need.
    from densenet_jax.models.kernel_block import KernelDenseNet

    return KernelDenseNet(config, rngs=rngs)


def choose_form(config: NetworkConfig, device: jax.Device) -> tuple[NetworkConfig, str]:
    """Returns `config` with `block` set to "xla" or "kernels" for `device`, and the reason.

    The reason is empty for networks without dense blocks.
    """
    if not isinstance(config, DenseNetConfig):
        return config, ""
    form: Literal["xla", "kernels"] = "xla"
    reason = why_not_kernels(config)
    if config.block == "xla":
        reason = "as configured"
    elif not reason and device.platform not in PLATFORMS:
        reason = f"there are no kernels for {device.device_kind}"
    elif not reason and config.block == "kernels":
        form, reason = "kernels", "as configured"
    elif not reason and any(name in device.device_kind for name in FASTER_ON):
        form, reason = "kernels", f"measured to be faster on {device.device_kind}"
    reason = reason or f"kernels have not been measured to be faster on {device.device_kind}"
    return dataclasses.replace(config, block=form), reason


def why_not_kernels(config: DenseNetConfig) -> str:
    """Returns why the kernels cannot compute the network, or "" if they can."""
    growth_rate = config.growth_rate * config.growth_factor ** (len(config.blocks) - 1)
    dtype, param_dtype = (jnp.dtype(t).name for t in (config.dtype, config.param_dtype))
    bottleneck = config.bottleneck * growth_rate
    family = type(config).__name__.removesuffix("Config")
    reasons = {
        f"the network is a {family}": type(config) is not DenseNetConfig,
        f"connectivity is {config.connectivity}": config.connectivity != "block",
        "post_activation": config.post_activation,
        f"dropout_rate is {config.dropout_rate:g}": config.dropout_rate > 0,
        f"se_ratio is {config.se_ratio}": config.se_ratio > 0,
        f"bn_group_size is {config.bn_group_size}": config.bn_group_size > 0,
        "remat is layer": config.remat == "layer",
        f"dtype is {dtype}": dtype not in ("float32", "bfloat16"),
        f"param_dtype is {param_dtype}": param_dtype != "float32",
        f"a layer has more than {MAX_OUTPUTS[9]} maps": growth_rate > MAX_OUTPUTS[9],
        f"a bottleneck has more than {MAX_OUTPUTS[1]} maps": bottleneck > MAX_OUTPUTS[1],
    }
    return next((reason for reason, applies in reasons.items() if applies), "")
