"""Every named network: `list_models`, `create_model`."""

import dataclasses
import fnmatch
import functools
import re
from collections.abc import Callable
from typing import Any

from flax import nnx

from densenet_jax.errors import InputError, counted, suggest
from densenet_jax.models.all_cnn import AllCNN, AllCNNConfig
from densenet_jax.models.blur import BlurDenseNet, BlurDenseNetConfig
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.models.forms import build_densenet
from densenet_jax.models.fractalnet import FractalNet, FractalNetConfig
from densenet_jax.models.highway import Highway, HighwayConfig
from densenet_jax.models.network import Network, NetworkConfig
from densenet_jax.models.nin import NIN, NINConfig
from densenet_jax.models.rdnet import RDNet, RDNetConfig
from densenet_jax.models.resnet import ResNet, ResNetConfig

# The function that builds the network of each config.
FAMILIES: dict[type[NetworkConfig], Callable[..., Network]] = {
    DenseNetConfig: build_densenet,
    ResNetConfig: ResNet,
    NINConfig: NIN,
    AllCNNConfig: AllCNN,
    HighwayConfig: Highway,
    FractalNetConfig: FractalNet,
    RDNetConfig: RDNet,
    BlurDenseNetConfig: BlurDenseNet,
}

# Names of networks for small images state their sizes in the papers' notation. Other sizes work
# too, for example densenet_bc_k12_d22, densenet_c_k12_d40 or preresnet29.
CIFAR_NAMES = (
    # Table 2 of the CVPR paper.
    "densenet_k12_d40",
    "densenet_k12_d100",
    "densenet_k24_d100",
    "densenet_bc_k12_d100",
    "densenet_bc_k24_d250",
    "densenet_bc_k40_d190",
    "resnet110",
    "resnet1202",
    "preresnet164",
    "preresnet1001",
    "wrn16_4",
    "wrn16_8",
    "wrn28_10",
    # Wide-DenseNet-BC, of the authors' repository.
    "densenet_bc_k36_d40",
    "densenet_bc_k48_d40",
    "densenet_bc_k60_d40",
)
_CIFAR_DENSENET = re.compile(r"densenet(?P<kind>_b|_c|_bc)?_k(?P<growth_rate>\d+)_d(?P<depth>\d+)")
_CIFAR_RESNET = re.compile(r"(?P<kind>resnet|preresnet|wrn)(?P<depth>\d+)(_(?P<widening>\d+))?")

# Growth rate and layers of each block: Table 1 of both papers; DenseNet-232: technical report.
IMAGENET_DENSENETS = {
    "densenet121": (32, (6, 12, 24, 16)),
    "densenet169": (32, (6, 12, 32, 32)),
    "densenet201": (32, (6, 12, 48, 32)),
    "densenet161": (48, (6, 12, 36, 24)),
    "densenet264": (32, (6, 12, 64, 48)),
    "densenet232": (48, (6, 12, 48, 48)),
}
# Blocks in each stage: Table 1 of He et al. (arXiv 1512.03385).
IMAGENET_RESNETS = {
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}

OTHERS = {
    "densenetblur121d": BlurDenseNetConfig(
        growth_rate=32, depth=None, block_config=(6, 12, 24, 16), stem="imagenet", num_classes=1000
    ),
    "nin": NINConfig(),
    "nin_svhn": NINConfig(
        mlpconv_widths=(128, 96, 64, 320, 256, 128, 384, 256), kernel_sizes=(5, 5, 5)
    ),
    "all_cnn_c": AllCNNConfig(),
    "dsn": NINConfig(companions=True),
    "highway19": HighwayConfig(),
    "fractalnet21": FractalNetConfig(),
    "rdnet_tiny": RDNetConfig(num_classes=1000),
    "rdnet_small": RDNetConfig(
        num_classes=1000,
        stem_features=72,
        stage_growth_rates=(64, *[128] * 8, 240, 240),
        downsampling=(1, 2, 9),
    ),
    "rdnet_base": RDNetConfig(
        num_classes=1000,
        stem_features=120,
        stage_growth_rates=(96, 128, *[168] * 7, 336, 336),
        downsampling=(1, 2, 9),
    ),
    "rdnet_large": RDNetConfig(
        num_classes=1000,
        stem_features=144,
        stage_growth_rates=(128, 192, *[256] * 8, 360, 360),
        downsampling=(1, 2, 10),
    ),
}


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names of the papers' networks that match a shell-style `pattern`."""
    names = [*CIFAR_NAMES, *IMAGENET_DENSENETS, *IMAGENET_RESNETS, *OTHERS]
    return fnmatch.filter(names, pattern)


def model_config(name: str, /, **overrides) -> NetworkConfig:
    """Returns the config of the network called `name`, with fields replaced by `overrides`.

    An override of `depth` replaces the catalogue's `block_config`, and the reverse.
    Raises InputError for an unknown name or field, or an impossible network.
    """
    if not isinstance(name, str):
        raise InputError(f"the name of a network is {name!r:.200}: give a name of list_models()")
    config = _named(name)
    fields = [field.name for field in dataclasses.fields(config)]
    for key in overrides:
        if key not in fields:
            raise InputError(f"{name} has no setting {key!r}: {suggest(key, fields)}")
    if "depth" in fields:
        for key, other in (("depth", "block_config"), ("block_config", "depth")):
            if overrides.get(key) is not None:
                overrides.setdefault(other, None)
    return dataclasses.replace(config, **overrides)


def create_model(name: str, *, rngs: nnx.Rngs, **overrides) -> Network:
    """Builds the network called `name`, freshly initialised from `rngs`.

    Args:
      name: a name from `list_models()`, or one in their notation: `densenet_bc_k12_d22`, `wrn40_4`.
      rngs: streams `params`, and `dropout` if the network drops out; `nnx.Rngs(0)` serves both.
      **overrides: fields of the network's config, such as `growth_rate=24` or `num_classes=100`.

    Raises:
      InputError: for an unknown name or field, or an impossible network.
    """
    config = model_config(name, **overrides)
    return FAMILIES[type(config)](config, rngs=rngs)


def describe(config: NetworkConfig) -> tuple[str, dict[str, Any]]:
    """Returns the name of the nearest network of the catalogue, and the settings that differ.

    `model_config(name, **settings)` returns `config`, but for `dtype` and `param_dtype`.
    """
    names = [name for name in list_models() if type(_named(name)) is type(config)]
    if isinstance(config, DenseNetConfig) and config.depth and config.stem == "cifar":
        kind = "b" * bool(config.bottleneck) + "c" * (config.compression < 1)
        kind = f"_{kind}" if kind else ""
        names.insert(0, f"densenet{kind}_k{config.growth_rate}_d{config.depth}")
    found = {name: _differences(config, name) for name in names}
    name = min(found, key=lambda name: len(found[name]))
    return name, found[name]


def _differences(config: NetworkConfig, name: str) -> dict[str, Any]:
    named, fields = _named(name), [field.name for field in dataclasses.fields(config)]
    return {
        field: getattr(config, field)
        for field in fields
        if "dtype" not in field and getattr(config, field) != getattr(named, field)
    }


@functools.cache
def _named(name: str) -> NetworkConfig:
    if name in OTHERS:
        return OTHERS[name]
    if name in IMAGENET_DENSENETS:
        growth_rate, block_config = IMAGENET_DENSENETS[name]
        return DenseNetConfig(
            growth_rate=growth_rate,
            depth=None,
            block_config=block_config,
            stem="imagenet",
            num_classes=1000,
        )
    if name in IMAGENET_RESNETS:
        has_bottlenecks = name != "resnet34"
        widths = (256, 512, 1024, 2048) if has_bottlenecks else (64, 128, 256, 512)
        return ResNetConfig(
            block_config=IMAGENET_RESNETS[name],
            widths=widths,
            bottleneck_blocks=has_bottlenecks,
            shortcut="projection",
            stem="imagenet",
            stem_features=64,
            num_classes=1000,
        )
    if match := _CIFAR_DENSENET.fullmatch(name):
        return _cifar_densenet(match["kind"], int(match["growth_rate"]), int(match["depth"]))
    match = _CIFAR_RESNET.fullmatch(name)
    if match and (match["kind"] == "wrn") == bool(match["widening"]):
        return _cifar_resnet(match["kind"], int(match["depth"]), int(match["widening"] or 1))
    raise InputError(f"there is no model {name!r:.100}: {suggest(name, list_models())}")


def _cifar_densenet(kind: str | None, growth_rate: int, depth: int) -> DenseNetConfig:
    return DenseNetConfig(
        growth_rate=growth_rate,
        depth=depth,
        bottleneck=4 if "b" in (kind or "") else 0,
        compression=0.5 if "c" in (kind or "") else 1.0,
        # The plain nets start with 16 filters; B, C and BC with 2k (section 3).
        stem_features=None if kind else 16,
    )


def _cifar_resnet(kind: str, depth: int, widening: int) -> ResNetConfig:
    # Convolutions in one block of each of the three stages, and convolutions outside blocks.
    step, rest = {"resnet": (6, 2), "preresnet": (9, 2), "wrn": (6, 4)}[kind]
    blocks, remainder = divmod(depth - rest, step)
    if blocks < 1 or remainder:
        below = max(blocks, 1) * step + rest
        raise InputError(
            f"there is no {kind} of {counted(depth, 'layer')}: its depth is {step} n + "
            f"{rest}, for example {below} or {below + step}"
        )
    if kind == "resnet":
        return ResNetConfig(block_config=(blocks,) * 3)
    if widening < 1:
        raise InputError("a Wide ResNet's widening factor is at least 1")
    wide = (16 * widening, 32 * widening, 64 * widening)
    return ResNetConfig(
        block_config=(blocks,) * 3,
        widths=wide if kind == "wrn" else (64, 128, 256),
        bottleneck_blocks=kind == "preresnet",
        pre_activation=True,
        shortcut="projection",
        # "fan_in" as in the code of Wide ResNets; the other networks follow fb.resnet.torch.
        kernel_init="fan_in" if kind == "wrn" else "fan_out",
    )
