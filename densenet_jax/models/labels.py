"""Labels for messages, tables and figures, which name a network by its facts."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from densenet_jax.models.catalog import describe, model_config
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.models.network import NetworkConfig

# Settings that usually follow from the data set.
_OF_THE_DATA = ("num_classes", "in_channels")


def network_label(name: str, settings: Mapping[str, Any], omitted: Collection[str] = ()) -> str:
    """Returns the nearest name of a network, and the settings that the name does not state.

    For example, the label of densenet_bc_k8_d22 with `growth_rate=4` and `compression=0.3` is
    "densenet_bc_k4_d22, compression 0.3".

    Args:
      name: the network's name in its config.
      settings: the overrides of the config. The number of classes and of channels is part of the
        label only if an override sets it.
      omitted: settings to leave out.

    Raises InputError for an unknown name or setting, or an impossible network.
    """
    config, named = model_config(name, **settings), model_config(name)
    left_out = {*omitted, *(key for key in _OF_THE_DATA if settings.get(key) is None)}
    candidates = {
        found: _differences(config, model_config(found), left_out)
        for found in dict.fromkeys([name, *_nearest(config, named)])
    }
    # Of equally near names, the first is the name in the config.
    nearest = min(candidates, key=lambda found: len(candidates[found]))
    return ", ".join([nearest, *(f"{k} {v}" for k, v in candidates[nearest].items())])


def _nearest(config: NetworkConfig, named: NetworkConfig) -> Iterable[str]:
    """Yields names near `config`.

    `describe` needs a depth to name a DenseNet for small images. With a block_config, the depth is
    that of `named`, or that of three blocks as long as the first.
    """
    yield describe(config)[0]
    if not (isinstance(config, DenseNetConfig) and isinstance(named, DenseNetConfig)):
        return
    if config.depth is None and config.stem == "cifar":
        step = 6 if config.bottleneck else 3
        for depth in (named.depth, step * config.blocks[0] + 4):
            if depth and depth > step and (depth - 4) % step == 0:
                yield describe(dataclasses.replace(config, depth=depth, block_config=None))[0]


def _differences(
    config: NetworkConfig, named: NetworkConfig, omitted: Collection[str]
) -> dict[str, Any]:
    """Returns the settings in which `config` differs from `named`."""
    found = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in omitted
        and "dtype" not in field.name
        and getattr(config, field.name) != getattr(named, field.name, None)
    }
    if isinstance(config, DenseNetConfig) and isinstance(named, DenseNetConfig):
        # A depth and a block_config may describe the same blocks.
        if config.blocks == named.blocks:
            found.pop("depth", None)
            found.pop("block_config", None)
        elif config.depth is None:
            found.pop("depth", None)
        else:
            found.pop("block_config", None)
        if "stem_features" in found:  # None is 2k, which may equal the other number.
            stems = [c.stem_features or 2 * c.growth_rate for c in (config, named)]
            found["stem_features"] = stems[0]
            if stems[0] == stems[1]:
                del found["stem_features"]
    return found
