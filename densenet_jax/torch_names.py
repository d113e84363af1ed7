"""Translates the names of parameters in this library and in others to PyTorch names.

PyTorch names are torchvision's, which timm shares; for RDNet they are timm's. Paths in this library
and the names of other libraries both translate to PyTorch names.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from itertools import accumulate
from typing import NamedTuple

from densenet_jax.errors import InputError
from densenet_jax.models.network import Network
from densenet_jax.models.rdnet import RDNet
from densenet_jax.models.resnet import ResNet

# Prefixes of the names of a classifier in various libraries.
HEADS = ("classifier.", "class_layers.", "fc.", "head.", "last_linear.")


class Translation(NamedTuple):
    """The PyTorch names of arrays.

    Attributes:
      names: the PyTorch name, by the name in a file.
      prefix: the beginning of names that was dropped, or "".
    """

    names: dict[str, str]
    prefix: str


class TorchNames(NamedTuple):
    """The PyTorch names of a family's parameters.

    Attributes:
      from_path: returns the PyTorch name for a path in this library, such as
        `stages.0.first.norm.weight`, and the index of the block in its stage.
      from_library: returns the PyTorch name for a name of another library.
      head: prefix of the classifier's PyTorch names.
      stem: PyTorch name of the kernel of the first convolution.
    """

    from_path: Callable[[str, int], str]
    from_library: Callable[[str], str]
    head: str
    stem: str

    def translate(self, names: Collection[str], expected: Collection[str]) -> Translation:
        """Returns the PyTorch name for each of the `names` in a file, and the dropped prefix.

        Wrappers put a prefix such as `module.` before all names, or before those of the backbone.
        The prefix that gives most of the `expected` names is dropped from all names. A name that
        begins with only a part of the prefix loses that part. Raises InputError if two names have
        the same translation.
        """
        votes = Counter(
            prefix
            for name in names
            for prefix in _prefixes(name)
            if self.from_library(name.removeprefix(prefix)) in expected
        )
        prefix = max(votes, key=lambda prefix: (votes[prefix], -len(prefix)), default="")
        longest_first = list(_prefixes(prefix))[::-1]
        translations = {
            name: self.from_library(name.removeprefix(next(filter(name.startswith, longest_first))))
            for name in names
        }
        originals = {translation: name for name, translation in translations.items()}
        for name, translation in translations.items():
            if originals[translation] != name:
                raise InputError(
                    f"these weights have two arrays for {translation}, {name} and "
                    f"{originals[translation]}: remove one"
                )
        return Translation(translations, prefix)


def names_for(model: Network) -> TorchNames:
    """Returns the PyTorch names for `model`.

    Raises InputError if the family of the network has no PyTorch names.
    """
    # An attribute identifies DenseNets, because other implementations are compared with this one.
    if getattr(model, "norm5", None):
        return TorchNames(
            _densenet_from_path, _densenet_from_library, "classifier.", "features.conv0.weight"
        )
    if isinstance(model, ResNet) and not model.config.pre_activation:
        return TorchNames(_resnet_from_path, _resnet_from_library, "fc.", "conv1.weight")
    if isinstance(model, RDNet):
        return TorchNames(_rdnet_from_path, _rdnet_from_library, "head.fc.", "stem.0.weight")
    raise InputError(
        f"this {type(model).__name__} has no PyTorch names: use a DenseNet, an RDNet or a ResNet "
        "without pre-activation"
    )


def _prefixes(name: str) -> Iterator[str]:
    """Yields "", "a." and "a.b." for "a.b.c"."""
    *parents, _ = name.split(".")
    return accumulate(parents, "{}{}.".format, initial="")


def _substitute(name: str, rules: list[tuple[str, str | Callable]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _counted_from_one(template: str) -> Callable[[re.Match[str]], str]:
    """Returns a replacement that fills `template` with the matched indices plus one."""
    return lambda match: template.format(*(int(index) + 1 for index in match.groups()))


def _densenet_from_path(name: str, block: int) -> str:
    name = _substitute(
        name,
        [
            (r"^blocks\.(\d+)\.(\d+)", _counted_from_one("denseblock{}.denselayer{}")),
            (r"^transitions\.(\d+)", _counted_from_one("transition{}")),
        ],
    )
    return name if name.startswith("classifier") else f"features.{name}"


def _densenet_from_library(name: str) -> str:
    return _substitute(
        name,
        [
            # torchvision before 0.4, whose files are still in use.
            (r"(denselayer\d+)\.(norm|conv)\.([12])\.", r"\1.\2\3."),
            # MONAI.
            (r"(denselayer\d+)\.layers\.", r"\1."),
            (r"^class_layers\.out\.", "classifier."),
            # The memory-efficient implementation.
            (r"^features\.norm_final\.", "features.norm5."),
            # mmpretrain.
            (r"^backbone\.stem\.0\.", "features.conv0."),
            (r"^backbone\.stem\.1\.", "features.norm0."),
            (
                r"^backbone\.stages\.(\d+)\.block\.(\d+)\.",
                _counted_from_one("features.denseblock{}.denselayer{}."),
            ),
            (r"^backbone\.transitions\.\d+\.0\.", "features.norm5."),
            (r"^backbone\.transitions\.(\d+)\.", _counted_from_one("features.transition{}.")),
            (r"^head\.fc\.", "classifier."),
        ],
    )


def _resnet_from_path(name: str, block: int) -> str:
    return _substitute(
        name,
        [
            (r"^stages\.(\d+)", _counted_from_one("layer{}")),
            (r"\.(first|rest\.blocks)\.", f".{block}."),
            (r"branch\.convs\.(\d+)", _counted_from_one("conv{}")),
            (r"branch\.norms\.(\d+)", _counted_from_one("bn{}")),
            (r"shortcut\.conv", "downsample.0"),
            (r"shortcut\.norm", "downsample.1"),
            (r"^norm1", "bn1"),
            (r"^classifier", "fc"),
        ],
    )


def _resnet_from_library(name: str) -> str:
    # mmpretrain.
    return _substitute(name, [(r"^backbone\.", ""), (r"^head\.fc\.", "fc.")])


def _rdnet_from_path(name: str, block: int) -> str:
    return _substitute(
        name,
        [
            (r"^stem\.", "stem.0."),
            (r"^stem_norm\.", "stem.1."),
            # All stages but the first begin with their transition.
            (r"^stages\.0\.", "dense_stages.0.0.dense_block"),
            (r"^stages\.(\d+)\.", r"dense_stages.\1.2.dense_block"),
            (r"^transitions\.(\d+)\.norm", _counted_from_one("dense_stages.{}.0")),
            (r"^transitions\.(\d+)\.conv", _counted_from_one("dense_stages.{}.1")),
            (r"\.depthwise\.", ".layers.layers.0."),
            (r"(dense_block\d+)\.norm\.", r"\1.layers.layers.1."),
            (r"\.widen\.", ".layers.layers.2."),
            (r"\.narrow\.", ".layers.layers.4."),
            (r"\.excitation\.conv\.", ".layers.layers.5.fc."),
            (r"\.layer_scale$", ".gamma"),
            (r"^norm\.", "head.norm."),
            (r"^classifier\.", "head.fc."),
        ],
    )


def _rdnet_from_library(name: str) -> str:
    # The files of RDNet's authors.
    return _substitute(name, [(r"^stem\.stem\.", "stem.")])
