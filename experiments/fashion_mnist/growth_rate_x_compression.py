r"""Growth rate against compression: DenseNet-BC, L = 22, on 10,000 images of Fashion-MNIST.

python -m launch.sweep --sweep experiments/fashion_mnist/growth_rate_x_compression.py \
    --workdir runs/growth_rate_x_compression --on local

Cost: 24 networks (12 settings, 2 seeds), 3 epochs each: 48 minutes on a CPU.
Measured test errors: experiments/results/growth_rate_x_compression. No published numbers.
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
