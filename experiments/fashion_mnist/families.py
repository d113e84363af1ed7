r"""Every family of networks, narrow enough for a laptop, on 10,000 images of Fashion-MNIST.

python -m launch.train --config experiments/fashion_mnist/families.py:nin --workdir runs/nin

Cost of training: 3 epochs of 10,000 images, minutes on a laptop. No published numbers. The results
show whether a family learns, not which family is better.
"""

from densenet_jax.errors import InputError, suggest
from densenet_jax.train.config import base_config

# Changes to the base config. Networks without BatchNorm need lower learning rates.
FAMILIES = {
    "densenet": {"model.name": "densenet_k12_d22"},
    "densenet_bc": {"model.name": "densenet_bc_k12_d22"},
    "se_densenet": {"model.name": "densenet_bc_k12_d22", "model.se_ratio": 4},
    "resnet": {"model.name": "resnet20"},
    "stochastic_depth": {"model.name": "resnet20", "model.survival": 0.5, "model.shortcut": "pool"},
    "preresnet": {"model.name": "preresnet29"},
    "wrn": {"model.name": "wrn10_2", "model.dropout_rate": 0.3, "weight_decay": 5e-4},
    "nin": {
        "model.name": "nin",
        "model.mlpconv_widths": (96, 80, 48, 96, 96, 96, 96, 96),
        "model.kernel_std": 0.0,
        "model.dropout_rate": 0.2,
        "learning_rate": 0.005,
    },
    "dsn": {
        "model.name": "dsn",
        "model.mlpconv_widths": (96, 80, 48, 96, 96, 96, 96, 96),
        "model.kernel_std": 0.0,
        "model.dropout_rate": 0.0,
        "model.companion_size": 28,
        "loss": "squared_hinge",
        "learning_rate": 0.001,
    },
    "all_cnn": {
        "model.name": "all_cnn_c",
        "model.stage_widths": (32, 64),
        "learning_rate": 0.03,
    },
    "highway": {
        "model.name": "highway19",
        "model.block_config": (2, 2, 2),
        "model.widths": (16, 32, 64),
        "learning_rate": 0.025,
    },
    "fractalnet": {
        "model.name": "fractalnet21",
        "model.widths": (16, 32, 64, 64),
        "model.dropout_rate": 0.2,
        "model.drop_path_rate": 0.15,
        "learning_rate": 0.02,
    },
    "rdnet": {
        "model.name": "rdnet_tiny",
        "model.stem_features": 32,
        "model.stage_growth_rates": (16, 24, 32),
        "model.downsampling": (1, 2),
        "learning_rate": 0.02,
    },
}


def get_config(family: str = "densenet_bc"):
    if family not in FAMILIES:
        raise InputError(f"there is no family {family!r}: {suggest(family, list(FAMILIES))}")
    config = base_config()
    config.epochs = 3
    config.learning_rate_schedule = "cosine"
    config.data.name = "fashion_mnist"
    config.data.examples = 10_000
    config.update_from_flattened_dict(FAMILIES[family])
    return config
