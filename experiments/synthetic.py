"""Any network of the catalogue on synthetic images, for timing and planning.

python -m launch.plan --config experiments/synthetic.py:densenet121 --target h100

Cost: `launch.plan` compiles one training step and runs nothing. The error has no meaning.
"""

from densenet_jax.models.catalog import model_config
from densenet_jax.train.config import base_config


def get_config(model: str = "densenet_bc_k12_d100"):
    config = base_config()
    config.model.name = model
    made_for_imagenet = model_config(model).num_classes == 1000
    config.data.name = "synthetic_imagenet" if made_for_imagenet else "synthetic"
    config.epochs = 1
    return config
