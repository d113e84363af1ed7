"""Reads the `config.json` that accompanies weights on the Hugging Face hub, in timm's format."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from densenet_jax.data.archives import naming_file
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
    *("origin_url", "paper_name", "paper_ids", "notes", "multilabel"),
}
_PICTURE_KEYS = {*_DEFAULTS, "input_size", "test_input_size", "test_crop_pct"}


class TimmConfig(NamedTuple):
    """The content of a config.json.

    Attributes:
      architecture: the name of the network.
      settings: settings of the network that differ from those of `architecture`.
      preprocessing: the crop and the normalisation of pictures.
      classes: names of the classes in the order of the logits; None if unknown.
      multilabel: whether a picture can have several of the classes, which timm does not know.
    """

    architecture: str
    settings: dict[str, Any]
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None
    multilabel: bool = False


def read(path: Path) -> TimmConfig | None:
    """Reads a config.json; returns None if the file describes no network, as that of a run.

    Raises InputError if the file is damaged, or has an unknown key or value that matters.
    """
    with naming_file(path):
        text = read_regular(path, MAX_CONFIG_BYTES)
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or "architecture" not in content:
            return None
        return _parse(content)
    except InputError as error:
        reason, _, _ = str(error).partition(": ")  # Without its remedy.
    except KeyError as error:
        reason = f"it has no {error}"
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        reason = str(error)
    raise InputError(
        f"{path} cannot be used ({reason:.200}): correct it, or name the weights file and its "
        "network"
    )


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
            "crop_pct": _ratio(crop),
            "crop_mode": "center",
            "mean": [x / 255 for x in config.preprocessing.mean],
            "std": [x / 255 for x in config.preprocessing.std],
            "num_classes": num_classes,
        },
    }
    if config.classes:
        content["label_names"] = list(config.classes)
    if config.multilabel:
        content["multilabel"] = True
    return json.dumps(content, indent=2) + "\n"


def _ratio(crop: CentralCrop) -> float:
    """Returns the ratio from which readers compute `crop.resize`, rounded down."""
    ratio = crop.size / crop.resize
    while math.floor(crop.size / ratio) < crop.resize:
        ratio = math.nextafter(ratio, 0)
    return ratio


def preprocessing(config: dict[str, Any]) -> Preprocessing:
    """Returns the preprocessing for evaluation, as `timm.data.resolve_data_config` does.

    The size and the crop for tests take precedence over those for training.

    Args:
      config: the `pretrained_cfg` of a config.json, whose mean and std are on a scale of 0 to 1.

    Raises ValueError for a crop that is not central, square and bilinear or bicubic, and for a mean
    or std that is not a number for each channel.
    """
    if unknown := sorted(config.keys() - _PICTURE_KEYS - _IGNORED_KEYS):
        raise ValueError(f"it has the unknown key {unknown[0]!r}")
    values = _DEFAULTS | {key: value for key, value in config.items() if value is not None}
    channels, height, width = _size(values.get("test_input_size") or values["input_size"])
    ratio = values.get("test_crop_pct") or values["crop_pct"]
    if height != width or values["crop_mode"] != "center":
        raise ValueError(
            f"its crop is {values['crop_mode']} of {height} x {width} pixels, not a central square"
        )
    if not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise ValueError(f"its crop_pct is {ratio!r}, not a number above 0 and at most 1")
    crop = CentralCrop(math.floor(height / ratio), height, values["interpolation"])
    for key in ("mean", "std"):
        is_list = isinstance(values[key], list | tuple) and len(values[key]) == channels
        if not is_list or not all(type(x) in (int, float) for x in values[key]):
            raise ValueError(f"its {key} is {values[key]!r}, not a number for each channel")
    mean, std = (tuple(255 * x for x in values[key]) for key in ("mean", "std"))
    return Preprocessing(crop, mean, std)


def _size(value: Any) -> tuple[int, int, int]:
    """Returns channels, height and width."""
    if not (isinstance(value, list | tuple) and len(value) == 3):
        raise ValueError(f"its input_size is {value!r}, not channels, height and width")
    if not all(type(number) is int and number > 0 for number in value):
        raise ValueError(f"its input_size is {value!r}, not three positive whole numbers")
    channels, height, width = value
    return channels, height, width


def _parse(content: dict[str, Any]) -> TimmConfig:
    # Old files have all keys at the top, and `labels`.
    if "labels" in content:
        content = {k: v for k, v in content.items() if k != "labels"} | {
            "label_names": content["labels"]
        }
    pretrained = content.get("pretrained_cfg") or content
    arguments = content.get("model_args") or {}
    if not isinstance(content["architecture"], str):
        raise ValueError(f"its architecture is {content['architecture']!r}, not a name")
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
    num_classes = content.get("num_classes", pretrained.get("num_classes"))
    channels, *_ = _size(pretrained["input_size"])
    settings |= {"num_classes": num_classes, "in_channels": settings.get("in_channels", channels)}
    names = content.get("label_names") or pretrained.get("label_names")
    texts = content.get("label_descriptions") or pretrained.get("label_descriptions") or {}
    classes = _classes(names, texts, num_classes) if names else None
    multilabel = content.get("multilabel", False)
    if not isinstance(multilabel, bool):
        raise ValueError(f"its multilabel is {multilabel!r}, not true or false")
    return TimmConfig(
        content["architecture"], settings, preprocessing(pretrained), classes, multilabel
    )


def _classes(names: Any, texts: Any, count: Any) -> tuple[str, ...]:
    """Returns the class names: `names` by label, or the descriptions of these names."""
    if isinstance(names, dict):  # Labels as text, in any order.
        names = [names[str(label)] for label in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its label_names is not a list of names")
    if len(names) != count:
        raise ValueError(f"its label_names has {len(names)} names for {count} classes")
    if not isinstance(texts, dict):
        raise ValueError("its label_descriptions is not an object")
    return tuple(str(texts.get(name, name)) for name in names)
