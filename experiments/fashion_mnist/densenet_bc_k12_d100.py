r"""DenseNet-BC (k = 12), 100 layers, on Fashion-MNIST: 768,730 parameters.

python -m launch.train --config experiments/fashion_mnist/densenet_bc_k12_d100.py \
    --workdir runs/fashion_mnist_densenet

Published test error in %: 4.6 (accuracy 0.954), in the benchmark of Fashion-MNIST's README, with
standardised images, crops and flips.
Cost of training: the recipe for CIFAR, 300 epochs of 60,000 images.
"""

from densenet_jax.train.config import base_config


def get_config():
    config = base_config()
    config.model.name = "densenet_bc_k12_d100"
    config.data.name = "fashion_mnist"
    config.data.augment = True
    return config
