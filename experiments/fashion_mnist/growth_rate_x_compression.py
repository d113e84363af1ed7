r"""Growth rate against compression: DenseNet-BC, L=22, on 10,000 images, 3 epochs, two seeds each.

python -m launch.sweep --sweep experiments/fashion_mnist/growth_rate_x_compression.py \
    --workdir runs/growth_rate_x_compression --on local
"""

from experiments.sweeps import forms


def get_config():
    return forms.quick()


def get_hyper(hyper):
    return hyper.product(
        [
            hyper.sweep("config.model.growth_rate", [4, 8, 12]),
            hyper.sweep("config.model.compression", [0.3, 0.5, 0.7, 1.0]),
            hyper.sweep("config.seed", [0, 1]),
        ]
    )
