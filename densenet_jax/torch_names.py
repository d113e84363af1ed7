"""What PyTorch's libraries call the parameters of a network.

Ours are translated to torchvision's names, which are timm's too; RDNet's to timm's. What others
call them is translated to those.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from flax import nnx

from densenet_jax.errors import InputError
from densenet_jax.models.rdnet import RDNet
from densenet_jax.models.resnet import ResNet


class Naming(NamedTuple):
    """How the parameters of a family are named.

    Attributes:
      of_ours: the name for the path of one of ours, `stages.0.first.norm.weight`, and of the number
        of the block in its stage, if it has one.
      of_others: the name for that of another library.
      head: how names of the classifier begin.
    """

    of_ours: Callable[[str, int], str]
    of_others: Callable[[str], str]
    head: str


def naming(model: nnx.Module) -> Naming:
    """Raises InputError for a network whose parameters nobody has named."""
    if getattr(model, "norm5", None):  # Whatever has the parts of a DenseNet, as a peer's may.
        return Naming(_densenet, _densenet_of_others, "classifier.")
    if isinstance(model, ResNet) and not model.config.pre_activation:
        return Naming(_resnet, _resnet_of_others, "fc.")
    if isinstance(model, RDNet):
        return Naming(_rdnet, _rdnet_of_others, "head.fc.")
    raise InputError(
        f"a {type(model).__name__} like this has no PyTorch names: DenseNets have, RDNets, and "
        "ResNets without pre-activation."
    )


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
            # torch.nn.DataParallel.
            (r"^module\.", ""),
            # torchvision before 0.4, whose files are still around.
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
    return _substitute(name, [(r"^module\.", ""), (r"^backbone\.", ""), (r"^head\.fc\.", "fc.")])


def _rdnet(name: str, block: int) -> str:
    return _substitute(
        name,
        [
            (r"^stem\.", "stem.0."),
            (r"^stem_norm\.", "stem.1."),
            # A stage begins with its transition, but for the first.
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
    # The authors' own files.
    return _substitute(name, [(r"^module\.", ""), (r"^stem\.stem\.", "stem.")])
