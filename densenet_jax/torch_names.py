"""Translates between the names of parameters here and in PyTorch's libraries.

Names here are translated to torchvision's, which are timm's too, and an RDNet's to timm's. Names of
other libraries are translated to torchvision's or timm's as well.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from itertools import accumulate
from typing import NamedTuple

from flax import nnx

from densenet_jax.errors import InputError
from densenet_jax.models.rdnet import RDNet
from densenet_jax.models.resnet import ResNet

# How the names of a classifier begin in various libraries.
HEADS = ("classifier.", "fc.", "head.", "last_linear.")


class Naming(NamedTuple):
    """The naming of a family's parameters.

    Attributes:
      of_ours: returns the name for a path here, `stages.0.first.norm.weight`, and for the number of
        the block in its stage, if it has one.
      of_others: returns the name for another library's name.
      head: the beginning of the classifier's names.
    """

    of_ours: Callable[[str, int], str]
    of_others: Callable[[str], str]
    head: str

    def translate(self, names: Collection[str], wanted: Collection[str]) -> dict[str, str]:
        """Returns the translation of each of a file's `names`.

        Wrappers put a prefix before all names, such as `module.`, or before those of the backbone.
        The prefix that leaves most of the `wanted` names is dropped, wherever it or a parent of it
        stands. Raises InputError if two names have the same translation.
        """
        votes = Counter(
            prefix
            for name in names
            for prefix in _prefixes(name)
            if self.of_others(name.removeprefix(prefix)) in wanted
        )
        prefix = max(votes, key=lambda prefix: (votes[prefix], -len(prefix)), default="")
        longest_first = list(_prefixes(prefix))[::-1]
        translations = {
            name: self.of_others(name.removeprefix(next(filter(name.startswith, longest_first))))
            for name in names
        }
        originals = {translation: name for name, translation in translations.items()}
        for name, translation in translations.items():
            if originals[translation] != name:
                raise InputError(
                    f"these weights have two arrays for {translation}, {name} and "
                    f"{originals[translation]}: remove one"
                )
        return translations


def naming(model: nnx.Module) -> Naming:
    """Returns the naming for `model`; raises InputError if its family has no PyTorch names."""
    # Recognised by its parts, because other implementations of DenseNet are compared with ours.
    if getattr(model, "norm5", None):
        return Naming(_densenet, _densenet_of_others, "classifier.")
    if isinstance(model, ResNet) and not model.config.pre_activation:
        return Naming(_resnet, _resnet_of_others, "fc.")
    if isinstance(model, RDNet):
        return Naming(_rdnet, _rdnet_of_others, "head.fc.")
    raise InputError(
        f"this {type(model).__name__} has no PyTorch names: use a DenseNet, an RDNet or a ResNet "
        "without pre-activation"
    )


def _prefixes(name: str) -> Iterator[str]:
    """Returns "", "a." and "a.b." for "a.b.c"."""
    *parents, _ = name.split(".")
    return accumulate(parents, "{}{}.".format, initial="")


def _substitute(name: str, rules: list[tuple[str, str | Callable]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _counted_from_one(template: str):
    return lambda match: template.format(*(int(index) + 1 for index in match.groups()))


def _densenet(name: str, block: int) -> str:
    name = _substitute(
        name,
        [
            (r"^blocks\.(\d+)\.(\d+)", _counted_from_one("denseblock{}.denselayer{}")),
            (r"^transitions\.(\d+)", _counted_from_one("transition{}")),
        ],
    )
    return name if name.startswith("classifier") else f"features.{name}"


def _densenet_of_others(name: str) -> str:
    return _substitute(
        name,
        [
            # torchvision before 0.4, whose files are still in use.
            (r"(denselayer\d+)\.(norm|conv)\.([12])\.", r"\1.\2\3."),
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


def _resnet(name: str, block: int) -> str:
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


def _resnet_of_others(name: str) -> str:
    return _substitute(name, [(r"^head\.fc\.", "fc.")])


def _rdnet(name: str, block: int) -> str:
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


def _rdnet_of_others(name: str) -> str:
    # Files of RDNet's authors.
    return _substitute(name, [(r"^stem\.stem\.", "stem.")])
