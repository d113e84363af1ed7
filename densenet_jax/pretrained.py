"""Finds trained networks: published weights by name, run directories, and weights files."""

import contextlib
import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from densenet_jax import hub, timm_config, weight_files, weights
from densenet_jax.data.pictures import CentralCrop, Preprocessing
from densenet_jax.errors import InputError, suggest
from densenet_jax.models import catalog
from densenet_jax.models.blur import BlurDenseNetConfig
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.models.network import Network, NetworkConfig
from densenet_jax.models.rdnet import RDNetConfig
from densenet_jax.models.resnet import ResNetConfig
from densenet_jax.train import saved_network

# Repositories of published weights on the Hugging Face hub, by network; the first is the default.
# A repository ends in the tag of its weights, such as "ra_in1k".
REPOSITORIES = {
    "densenet121": ("timm/densenet121.ra_in1k", "timm/densenet121.tv_in1k"),
    "densenetblur121d": ("timm/densenetblur121d.ra_in1k",),
    "densenet169": ("timm/densenet169.tv_in1k",),
    "densenet201": ("timm/densenet201.tv_in1k",),
    "densenet161": ("timm/densenet161.tv_in1k",),
    "resnet34": ("timm/resnet34.tv_in1k",),
    "resnet50": ("timm/resnet50.tv_in1k",),
    "resnet101": ("timm/resnet101.tv_in1k",),
    "resnet152": ("timm/resnet152.tv_in1k",),
    "rdnet_tiny": ("naver-ai/rdnet_tiny.nv_in1k",),
    "rdnet_small": ("naver-ai/rdnet_small.nv_in1k",),
    "rdnet_base": ("naver-ai/rdnet_base.nv_in1k",),
    "rdnet_large": (
        "naver-ai/rdnet_large.nv_in1k",
        "naver-ai/rdnet_large.nv_in1k_ft_in1k_384",
    ),
}
# Crops of weights files without a config.json beside them, by family and by timm's tag in the name
# of the file. None stands for files without a tag: torchvision's, and those of RDNet's authors.
_CROPS: dict[type, dict[str | None, CentralCrop]] = {
    DenseNetConfig: {
        None: CentralCrop(),
        "tv_in1k": CentralCrop(interpolation="bicubic"),
        "ra_in1k": CentralCrop(303, 288, "bicubic"),
    },
    BlurDenseNetConfig: {"ra_in1k": CentralCrop(303, 288, "bicubic")},
    ResNetConfig: {None: CentralCrop(), "tv_in1k": CentralCrop()},
    RDNetConfig: {
        None: CentralCrop(248, 224, "bicubic"),  # 224 / 0.9
        "nv_in1k": CentralCrop(248, 224, "bicubic"),
        "nv_in1k_ft_in1k_384": CentralCrop(384, 384, "bicubic"),
    },
}
_TAG = re.compile(r"\.(\w*in1k\w*)")  # As in densenet121.tv_in1k.safetensors.


def create_model(
    name: str, *, rngs: nnx.Rngs | None = None, pretrained: bool | str = False, **overrides
) -> Network:
    """Builds the network called `name`, with new or with published weights.

    Args:
      name: a name from `list_models()`, or one in their notation: `densenet_bc_k12_d22`, `wrn40_4`.
      rngs: streams `params`, and `dropout` if the network drops out; the default is `nnx.Rngs(0)`.
      pretrained: True loads the default weights for `name`; a tag such as "ra_in1k" chooses others,
        see `pretrained.REPOSITORIES`. The network then has `preprocessing` and `classes`.
      **overrides: fields of the network's config, such as `growth_rate=24` or `num_classes=100`.
        With another number of classes, the classifier of a pretrained network stays new, with a
        logged warning.

    Raises:
      InputError: for an unknown name, field or tag, an impossible network, or weights that cannot
        be found.
    """
    if not isinstance(pretrained, bool | str):
        raise InputError(f"pretrained is {pretrained!r:.200}: give True, False or a tag of weights")
    if not pretrained:
        return catalog.create_model(name, rngs=rngs or nnx.Rngs(0), **overrides)
    source = hub.HUB + repository(name, None if pretrained is True else pretrained)
    return load(source, name, rngs=rngs, head=None, **overrides)


def repository(name: str, tag: str | None = None) -> str:
    """Returns the repository of a network's weights, by default the first.

    Raises InputError if there are none.
    """
    catalog.model_config(name)  # Raises InputError for an unknown name.
    if name not in REPOSITORIES:
        raise InputError(
            f"{name} has no published weights: choose one of {', '.join(REPOSITORIES)}"
        )
    if tag is None:
        return REPOSITORIES[name][0]
    if tag not in (tags := _by_tag(name)):
        raise InputError(f"{name} has no weights {tag!r}: {suggest(tag, tuple(tags))}")
    return tags[tag]


def _by_tag(name: str) -> dict[str, str]:
    return {found.partition(".")[2]: found for found in REPOSITORIES.get(name, ())}


def load(
    source: str | Path,
    model: str | None = None,
    *,
    rngs: nnx.Rngs | None = None,
    head: bool | None = True,
    ema: bool = False,
    **overrides,
) -> Network:
    """Returns a trained network, with its `preprocessing` and `classes` where they are known.

    Args:
      source: one of
        the name of a network with published weights, such as "densenet121", alone or with the tag
        of its weights, "densenet121.tv_in1k";
        `hf:REPOSITORY` of the Hugging Face hub, whose config.json describes the network;
        a run directory;
        a weights file, with timm's config.json in its directory, or with `model`;
        a directory with timm's config.json and model.safetensors, or its index and shards.
      model: the name of the network in a weights file.
      rngs: initialises what has no weights.
      head, ema: see `weights.load_torch`.
      **overrides: fields of the network's config.

    Raises:
      InputError: there is no such source, the source is damaged or describes another network, or
        its preprocessing cannot be done to single pictures.
    """
    if not isinstance(source, str | Path):
        raise InputError(f"the source of a network is {source!r:.200}: give a name or a path")
    text = str(source)
    config: timm_config.TimmConfig | None = None
    name, _, tag = text.partition(".")
    if tag in _by_tag(name) or text in REPOSITORIES:
        text = hub.HUB + repository(name, tag or None)
    describe = functools.partial(
        _load_described, model=model, rngs=rngs, overrides=overrides, head=head, ema=ema
    )
    if text.startswith(hub.HUB):
        config = timm_config.read(hub.download(text, "config.json"))
        if config is None:
            raise InputError(f"the config.json of {text} describes no network: name its file")
        return describe(text, config)
    path = Path(text).expanduser()
    if not text or not _exists(path):
        if re.fullmatch(r"[a-z]\w*", text):
            repository(text)  # Raises InputError: no such network, or no published weights.
        raise InputError(f"there is no weights file, run directory or network {text!r:.200}")
    if path.is_dir():
        if config := _config_in(path):
            return describe(str(_weights_in(path)), config)
        if ema:
            raise InputError(f"{path} is a run directory, which --ema is not for: remove --ema")
        if head is not True:
            raise InputError(f"{path} is a run directory, loaded whole: leave out head")
        return _load_run(path, model, overrides)
    if model is None:
        if config := _config_in(path.parent):
            return describe(text, config)
        raise InputError(
            f"{text} is a weights file without the name of its network: name it, as in --model "
            "densenet121"
        )
    with contextlib.suppress(InputError):  # A damaged config.json, which `model` replaces.
        config = _config_in(path.parent)
    if config and config.architecture == model:
        return describe(text, config)
    network = catalog.create_model(model, rngs=rngs or nnx.Rngs(0), **overrides)
    weights.load_torch(network, text, head, ema)
    network.preprocessing = _for_channels(preprocessing_of_file(path, network.config), network)
    return network


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # Such as a name that is too long.
        return False


def _config_in(directory: Path) -> timm_config.TimmConfig | None:
    path = directory / "config.json"
    return timm_config.read(path) if path.exists() else None


def _weights_in(directory: Path) -> Path:
    """Returns the path of the weights in a directory, which may be missing."""
    paths = [directory / name for name in weight_files.PUBLISHED_NAMES]
    return next((path for path in paths if path.exists()), paths[0])


def _load_described(
    source: str,
    config: timm_config.TimmConfig,
    *,
    model: str | None,
    rngs: nnx.Rngs | None,
    overrides: dict[str, Any],
    head: bool | None,
    ema: bool,
) -> Network:
    """Returns the network that a config.json describes, with the weights in `source`."""
    if model is not None and model != config.architecture:
        raise InputError(f"{source} has a {config.architecture}, not a {model}: leave out the name")
    described = catalog.model_config(config.architecture, **config.settings | overrides)
    network = catalog.FAMILIES[type(described)](described, rngs=rngs or nnx.Rngs(0))
    weights.load_torch(network, source, head, ema)
    network.preprocessing = _for_channels(config.preprocessing, network)
    if network.config.num_classes == config.settings["num_classes"]:
        network.classes, network.multilabel = config.classes, config.multilabel
    return network


def _load_run(path: Path, model: str | None, overrides: dict[str, Any]) -> Network:
    for setting, value in {"model": model, **overrides}.items():
        if value is not None and setting not in ("dtype", "remat", "block"):
            raise InputError(
                f"{path} is a run directory, which records its {setting}: leave out {setting}"
            )
    network, description = saved_network.load_network(path, **overrides)
    if description["preprocessing"] != "standardize":
        raise InputError(
            f"this network was trained with data.preprocessing {description['preprocessing']!r}, "
            "which cannot be applied to single pictures: use launch.evaluate --workdir instead"
        )
    crop = CentralCrop(**description["crop"])
    network.preprocessing = Preprocessing(crop, description["mean"], description["std"])
    network.classes = description["classes"]
    network.multilabel = description.get("multilabel", False)  # Early runs lack it.
    return network


def preprocessing_of_file(path: Path, config: NetworkConfig) -> Preprocessing | None:
    """Returns the preprocessing of published weights by family and tag, or None if unknown."""
    found = _TAG.search(path.name)
    crops = _CROPS.get(type(config), {})
    tag = found and found[1]
    # Networks for small images have no published weights.
    if tag not in crops or getattr(config, "stem", "imagenet") != "imagenet":
        return None
    return Preprocessing(crops[tag])


def _for_channels(preprocessing: Preprocessing | None, network: Network) -> Preprocessing | None:
    """Returns `preprocessing` with the average mean and std if the number of channels differs."""
    channels = network.config.in_channels
    if preprocessing is None or len(preprocessing.mean) == channels:
        return preprocessing
    mean, std = (
        (float(np.mean(values)),) * channels for values in (preprocessing.mean, preprocessing.std)
    )
    return dataclasses.replace(preprocessing, mean=mean, std=std)
