"""A small DenseNet-BC (71,254 parameters) on Fashion-MNIST, for a laptop.

python -m launch.train --config experiments/fashion_mnist/densenet_bc_k12_d22.py --workdir runs/fm

Not augmented: a network this small does not overfit soon. With `--config.epochs=3` the test error
was 9.42 % (11.10 % with `--config.data.augment=True`), with 12 epochs 7.00 % (see
experiments/results/fashion_mnist).
"""

from densenet_jax.train.config import base_config


def get_config():
    config = base_config()
    config.epochs = 30
    config.model.name = "densenet_bc_k12_d22"
    config.data.name = "fashion_mnist"
    return config
