"""Reads the `config.json` that accompanies weights on the Hugging Face hub, in timm's format."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from densenet_jax.data.pictures import CentralCrop, Preprocessing
from densenet_jax.errors import InputError
from densenet_jax.files import read_regular

MAX_CONFIG_BYTES = 2**24  # Largest config.json; 21,000 class names with descriptions take 3 MB.

# What timm assumes for a missing value.
_DEFAULTS: dict[str, Any] = {
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
# timm's names of settings that a network of this project also has.
_SETTINGS = {"in_chans": "in_channels", "drop_rate": "dropout_rate"}
# Keys that change neither the network nor its pictures. Another unknown key is an error.
_IGNORED_KEYS = {
    *("architecture", "num_classes", "num_features", "global_pool", "model_args", "pretrained_cfg"),
    *("label_names", "label_descriptions", "label_offset", "url", "file", "state_dict", "source"),
    *("hf_hub_id", "hf_hub_filename", "tag", "custom_load", "min_input_size", "fixed_input_size"),
    *("pool_size", "test_pool_size", "first_conv", "classifier", "license", "description"),
    *("origin_url", "paper_name", "paper_ids", "notes"),
}
_PICTURE_KEYS = {*_DEFAULTS, "input_size", "test_input_size", "test_crop_pct"}


class TimmConfig(NamedTuple):
    """The content of a config.json.

    Attributes:
      architecture: the name of the network.
      settings: settings of the network that differ from those of `architecture`.
      preprocessing: the crop and the normalisation of pictures.
      classes: names of the classes in the order of the logits; None if unknown.
    """

    architecture: str
    settings: dict[str, Any]
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None


def read(path: Path) -> TimmConfig | None:
    """Reads a config.json; returns None if the file describes no network, as that of a run.

    Raises InputError if the file is damaged, or has an unknown key or value that matters.
    """
    try:
        content = json.loads(read_regular(path, MAX_CONFIG_BYTES))
        if not isinstance(content, dict) or "architecture" not in content:
            return None
        return _parse(content)
    except (InputError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise InputError(
            f"{path} cannot be used ({reason}): set the preprocessing by flags and name the "
            "weights file with --model"
        ) from error


def write(config: TimmConfig) -> str:
    """Returns the content of a config.json."""
    crop, channels = config.preprocessing.crop, len(config.preprocessing.mean)
    num_classes, theirs = config.settings["num_classes"], {v: k for k, v in _SETTINGS.items()}
    content: dict[str, Any] = {
        "architecture": config.architecture,
        "num_classes": num_classes,
        "global_pool": "avg",
        "model_args": {theirs.get(key, key): value for key, value in config.settings.items()},
        "pretrained_cfg": {
            "input_size": [channels, crop.size, crop.size],
            "fixed_input_size": False,
            "interpolation": crop.interpolation,
            "crop_pct": crop.size / crop.resize,
            "crop_mode": "center",
            "mean": [x / 255 for x in config.preprocessing.mean],
            "std": [x / 255 for x in config.preprocessing.std],
            "num_classes": num_classes,
        },
    }
    if config.classes:
        content["label_names"] = list(config.classes)
    return json.dumps(content, indent=2) + "\n"


def preprocessing(config: dict[str, Any]) -> Preprocessing:
    """Returns the preprocessing for evaluation, as `timm.data.resolve_data_config` does.

    The size and the crop for tests take precedence over those for training.

    Args:
      config: the `pretrained_cfg` of a config.json, whose mean and std are on a scale of 0 to 1.

    Raises ValueError for a crop that is not central, square and bilinear or bicubic.
    """
    if unknown := sorted(config.keys() - _PICTURE_KEYS - _IGNORED_KEYS):
        raise ValueError(f"it has the unknown key {unknown[0]!r}")
    values = _DEFAULTS | {key: value for key, value in config.items() if value is not None}
    _, height, width = values.get("test_input_size") or values["input_size"]
    ratio = values.get("test_crop_pct") or values["crop_pct"]
    if height != width or values["crop_mode"] != "center":
        raise ValueError(
            f"its crop is {values['crop_mode']} of {height} x {width} pixels, not a central square"
        )
    crop = CentralCrop(math.floor(height / ratio), height, values["interpolation"])
    mean, std = (tuple(255 * float(x) for x in values[key]) for key in ("mean", "std"))
    return Preprocessing(crop, mean, std)


def _parse(content: dict[str, Any]) -> TimmConfig:
    # Old files have all keys at the top.
    pretrained = content.get("pretrained_cfg") or content
    arguments = content.get("model_args") or {}
    for keys in (content, arguments):
        if (pool := keys.get("global_pool", "avg")) != "avg":
            raise ValueError(f"its global_pool is {pool!r}, not 'avg'")
    if pretrained.get("label_offset"):
        raise ValueError("it has a label_offset")
    if unknown := sorted(content.keys() - _IGNORED_KEYS - pretrained.keys()):
        raise ValueError(f"it has the unknown key {unknown[0]!r}")
    settings = {
        _SETTINGS.get(key, key): tuple(value) if isinstance(value, list) else value
        for key, value in arguments.items()
        if key != "global_pool"
    }
    settings |= {
        "num_classes": content.get("num_classes", pretrained.get("num_classes")),
        "in_channels": settings.get("in_channels", pretrained["input_size"][0]),
    }
    names = content.get("label_names") or pretrained.get("label_names")
    texts = content.get("label_descriptions") or pretrained.get("label_descriptions") or {}
    classes = tuple(str(texts.get(name, name)) for name in names) if names else None
    return TimmConfig(content["architecture"], settings, preprocessing(pretrained), classes)
