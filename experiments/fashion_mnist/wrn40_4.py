r"""Wide ResNet-40-4 on Fashion-MNIST: 8,948,922 parameters.

python -m launch.train --config experiments/fashion_mnist/wrn40_4.py \
    --workdir runs/fashion_mnist_wrn40_4

Published test error in %, in the benchmark of Fashion-MNIST's README: 3.3 (accuracy 0.967), with
mean and deviation, crops and flips. Trained here by the recipe of its authors for CIFAR.
"""

from experiments.cvpr2017 import recipes


def get_config():
    config = recipes.wide_resnet("wrn28_10", "c10+", "wrn40_4")
    config.data.name = "fashion_mnist"
    config.data.preprocessing = "standardize"
    return config
