"""A small DenseNet-BC (71,254 parameters) on Fashion-MNIST, for a laptop.

python -m launch.train --config experiments/fashion_mnist/densenet_bc_k12_d22.py --workdir runs/fm

Images are not augmented, because a network this small does not overfit soon.
Measured test error in %: 9.42 with `--config.epochs=3` (11.10 with `--config.data.augment=True`),
6.83 with `--config.epochs=12` (see experiments/results/fashion_mnist).
Cost of training: 30 epochs of 60,000 images. 12 epochs took 53 minutes on one CPU core.
"""

from densenet_jax.train.config import base_config


def get_config():
    config = base_config()
    config.epochs = 30
    config.model.name = "densenet_bc_k12_d22"
    config.data.name = "fashion_mnist"
    return config
