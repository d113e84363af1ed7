"""Names that other libraries give to the parameters of a DenseNet."""

import re


def as_older_torchvision(name):
    """Returns the name in older versions of torchvision."""
    return re.sub(r"\.(norm|conv)([12])\.", r".\1.\2.", name)


def as_memory_efficient(name):
    return "module." + name.replace("features.norm5", "features.norm_final")


def as_mmpretrain(name, blocks=2):
    """Returns the name in mmpretrain, which calls the last norm a part of a transition."""
    name = re.sub(
        r"^features\.denseblock(\d+)\.denselayer(\d+)",
        lambda m: f"backbone.stages.{int(m[1]) - 1}.block.{int(m[2]) - 1}",
        name,
    )
    for ours, theirs in {
        "features.conv0": "backbone.stem.0",
        "features.norm0": "backbone.stem.1",
        **{f"features.transition{b}": f"backbone.transitions.{b - 1}" for b in range(1, blocks)},
        "features.norm5": f"backbone.transitions.{blocks - 1}.0",
        "classifier": "head.fc",
    }.items():
        name = name.replace(ours, theirs)
    return name
