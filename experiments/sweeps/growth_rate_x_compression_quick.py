r"""Growth rate against compression on scikit-learn's digits: minutes on a laptop.

python -m launch.sweep --sweep experiments/sweeps/growth_rate_x_compression_quick.py \
    --workdir runs/sweep --on local

Cost: 8 networks (4 settings, 2 seeds), 8 epochs each. No published numbers.
"""

from experiments import quickstart


def get_config():
    config = quickstart.get_config()
    config.epochs = 8
    return config


def get_hyper(hyper):
    return hyper.product(
        [
            hyper.sweep("config.model.growth_rate", [4, 8]),
            hyper.sweep("config.model.compression", [0.5, 1.0]),
            hyper.sweep("config.seed", [0, 1]),
        ]
    )
