"""Every named network: `list_models`, `create_model`."""

import dataclasses
import fnmatch
import re

from flax import nnx

from densenet_jax.errors import InputError, suggest
from densenet_jax.models.densenet import DenseNet, DenseNetConfig

# Small-image DenseNets are named by their facts, in the papers' notation. Any other such name, for
# example densenet_bc_k12_d22 or densenet_c_k12_d40, can be created too.
_CIFAR_NAME = re.compile(r"densenet(?P<kind>_b|_c|_bc)?_k(?P<growth_rate>\d+)_d(?P<depth>\d+)")
CIFAR_DENSENETS = (
    # Table 2 of the CVPR paper.
    "densenet_k12_d40",
    "densenet_k12_d100",
    "densenet_k24_d100",
    "densenet_bc_k12_d100",
    "densenet_bc_k24_d250",
    "densenet_bc_k40_d190",
    # Wide-DenseNet-BC, of the authors' repository.
    "densenet_bc_k36_d40",
    "densenet_bc_k48_d40",
    "densenet_bc_k60_d40",
)

# Table 1 of both papers, and DenseNet-232 of the technical report: growth rate and layers a block.
IMAGENET_DENSENETS = {
    "densenet121": (32, (6, 12, 24, 16)),
    "densenet169": (32, (6, 12, 32, 32)),
    "densenet201": (32, (6, 12, 48, 32)),
    "densenet161": (48, (6, 12, 36, 24)),
    "densenet264": (32, (6, 12, 64, 48)),
    "densenet232": (48, (6, 12, 48, 48)),
}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the papers' networks that match a shell-style `pattern`."""
    return fnmatch.filter([*CIFAR_DENSENETS, *IMAGENET_DENSENETS], pattern)


def model_config(name: str, **overrides) -> DenseNetConfig:
    """The config of the network called `name`, with fields replaced by `overrides`.

    Overriding `depth` drops the catalogue's `block_config`, and the other way round.
    Raises InputError for an unknown name or field, or an impossible network.
    """
    config = _named(name)
    fields = [field.name for field in dataclasses.fields(config)]
    for key in overrides:
        if key not in fields:
            raise InputError(f"{name} has no setting {key!r}: {suggest(key, fields)}")
    for key, other in (("depth", "block_config"), ("block_config", "depth")):
        if overrides.get(key) is not None:
            overrides.setdefault(other, None)
    return dataclasses.replace(config, **overrides)


def create_model(name: str, *, rngs: nnx.Rngs, **overrides) -> nnx.Module:
    """Builds the network called `name`, freshly initialised from `rngs`.

    Args:
      name: one of `list_models()`, or a DenseNet's facts, as in `densenet_bc_k12_d22`.
      rngs: streams `params`, and `dropout` if the network drops out; `nnx.Rngs(0)` serves both.
      **overrides: fields of the network's config, such as `growth_rate=24` or `num_classes=100`.

    Raises:
      InputError: for an unknown name or field, or an impossible network.
    """
    return DenseNet(model_config(name, **overrides), rngs=rngs)


def _named(name: str) -> DenseNetConfig:
    if name in IMAGENET_DENSENETS:
        growth_rate, block_config = IMAGENET_DENSENETS[name]
        return DenseNetConfig(
            growth_rate, depth=None, block_config=block_config, stem="imagenet", num_classes=1000
        )
    match = _CIFAR_NAME.fullmatch(name)
    if not match:
        raise InputError(f"there is no model {name!r}: {suggest(name, list_models())}")
    kind = match["kind"] or ""
    return DenseNetConfig(
        growth_rate=int(match["growth_rate"]),
        depth=int(match["depth"]),
        bottleneck=4 if "b" in kind else 0,
        compression=0.5 if "c" in kind else 1.0,
        # The plain nets start with 16 filters; B, C and BC with 2k (section 3).
        stem_features=None if kind else 16,
    )
