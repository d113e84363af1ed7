r"""Wide ResNets on Fashion-MNIST: wrn28_10, 36,478,906 parameters; wrn40_4, 8,948,922.

python -m launch.train --config experiments/fashion_mnist/wide_resnet.py:wrn28_10 \
    --workdir runs/fashion_mnist_wrn28_10

Published test errors in %: wrn28_10 4.1 (accuracy 0.959), wrn40_4 3.3 (0.967), in the benchmark of
Fashion-MNIST's README, with standardised images, crops and flips.
Cost of training: the recipe of their authors for CIFAR, 200 epochs of 60,000 images.
"""

from densenet_jax.errors import InputError
from experiments.cvpr2017 import recipes

NETWORKS = ("wrn28_10", "wrn40_4")


def get_config(network: str = "wrn28_10"):
    if network not in NETWORKS:
        raise InputError(
            f"there is no network {network!r} here: choose one of {', '.join(NETWORKS)}"
        )
    config = recipes.wide_resnet("wrn28_10", "c10+", network)
    config.data.name = "fashion_mnist"
    config.data.preprocessing = "standardize"
    return config
