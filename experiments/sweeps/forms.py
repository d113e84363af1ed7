"""The two forms of the papers' sweeps: `quick`, on a laptop, and `paper`, on ImageNet.

In the paper's form (TPAMI section 5, printed Figure 8) each setting is crossed with depth. Its
defaults are those of DenseNet-121: growth rate 32, bottlenecks of 4k, compression 0.5.
"""

from ml_collections import ConfigDict

from densenet_jax.errors import InputError
from densenet_jax.train.config import base_config
from experiments.cvpr2017 import recipes

# Depths 101, 121, 169, 201, 265 and 329 of the ablations; the figures' points A to F.
DEPTHS = {
    "A": (6, 12, 18, 12),
    "B": (6, 12, 24, 16),
    "C": (6, 12, 32, 32),
    "D": (6, 12, 48, 32),
    "E": (6, 12, 64, 48),
    "F": (6, 12, 80, 64),
}


def fashion_mnist() -> ConfigDict:
    """DenseNet-BC, L = 22, k = 8 on 10,000 images of Fashion-MNIST, 5 epochs."""
    config = base_config()
    config.epochs = 5
    config.model.name = "densenet_bc_k8_d22"
    config.data.name = "fashion_mnist"
    config.data.examples = 10_000
    return config


def get_config(form: str) -> ConfigDict:
    """The config of a form. Raises InputError for another one."""
    forms = {"quick": fashion_mnist, "paper": lambda: recipes.imagenet("densenet121")}
    if form not in forms:
        raise InputError(f"there is no form {form!r} of this sweep: choose one of quick, paper.")
    return forms[form]()


def points(hyper, form: str, key: str, quick: tuple, paper: dict) -> list[dict]:
    """The points of a form.

    Args:
      key: of the model, which is swept.
      quick: its values in the quick form.
      paper: its values in the paper's form, and the points of DEPTHS that the paper shows of each.
    """
    if form == "quick":
        return hyper.sweep(f"config.model.{key}", quick)
    sweeps = []
    for value, shown in paper.items():
        depths = hyper.sweep("config.model.block_config", [DEPTHS[letter] for letter in shown])
        sweeps.append(hyper.product([hyper.sweep(f"config.model.{key}", [value]), depths]))
    return hyper.chainit(sweeps)
