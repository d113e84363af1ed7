"""Base configs of the two forms of a sweep: `quick` for a laptop, and `paper` as published."""

from collections.abc import Callable

from ml_collections import ConfigDict

from densenet_jax.errors import InputError
from densenet_jax.train.config import base_config
from experiments.cvpr2017 import recipes
from experiments.figures import Curve


def quick() -> ConfigDict:
    """Returns 3 epochs of DenseNet-BC, L = 22, k = 8 on 10,000 images of Fashion-MNIST."""
    config = base_config()
    config.epochs = 3
    config.eval_every_epochs = 3
    config.learning_rate_schedule = "cosine"
    config.model.name = "densenet_bc_k8_d22"
    config.data.name = "fashion_mnist"
    config.data.examples = 10_000
    return config


def cifar10() -> ConfigDict:
    """Returns 300 epochs of CIFAR-10+, as in Figure 4."""
    config = base_config()
    config.model.name = "densenet_bc_k12_d100"
    config.data.name = "cifar10"
    config.data.augment = True
    return config


def imagenet() -> ConfigDict:
    """Returns 90 epochs of ImageNet, as in the ablations of the journal paper."""
    return recipes.imagenet("densenet121")


def get_config(
    form: str,
    paper: Callable[[], ConfigDict] = imagenet,
    quick: Callable[[], ConfigDict] = quick,
) -> ConfigDict:
    """Returns the config of a form; raises InputError for an unknown form."""
    forms = {"quick": quick, "paper": paper}
    if form not in forms:
        raise InputError(f"there is no form {form!r} of this sweep: choose one of quick, paper")
    return forms[form]()


def points(form: str, *groups: tuple[Curve, ...]) -> list[dict[str, object]]:
    """Returns the networks of the curves in `groups`, without repetitions."""
    found: list[dict[str, object]] = []
    for curve in (curve for group in groups for curve in group):
        published = [{"model.name": p.model} | _prefixed(p.settings) for p in curve.points]
        networks = curve.quick if form == "quick" else published
        found += [n for n in networks if n not in found]
    return [{f"config.{key}": value for key, value in network.items()} for network in found]


def _prefixed(settings: dict[str, object]) -> dict[str, object]:
    return {f"model.{key}": value for key, value in settings.items()}
