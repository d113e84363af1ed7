r"""Wide ResNet-28-10 on Fashion-MNIST: 36,478,906 parameters.

python -m launch.train --config experiments/fashion_mnist/wrn28_10.py \
    --workdir runs/fashion_mnist_wrn28_10

Published test error in %, in the benchmark of Fashion-MNIST's README: 4.1 (accuracy 0.959), with
mean and deviation, crops and flips. Trained here by the recipe of its authors for CIFAR.
"""

from experiments.cvpr2017 import recipes


def get_config():
    config = recipes.wide_resnet("wrn28_10", "c10+", "wrn28_10")
    config.data.name = "fashion_mnist"
    config.data.preprocessing = "standardize"
    return config
