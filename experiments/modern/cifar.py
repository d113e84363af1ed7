r"""DenseNet-BC (L=100, k=12) on CIFAR by a modern recipe, in a tenth or a third of the epochs.

python -m launch.train --config experiments/modern/cifar.py:c10_30 --workdir runs/c10_30

Names: c10_30, c10_100, c100_30, c100_100, the data set and the epochs. The recipe is chosen here:
one cycle of the learning rate, label smoothing, cutmix, and an average of the weights.
Published test error in % of the paper's recipe of 300 epochs: C10+ 4.51, C100+ 22.27. No published
numbers for this recipe. Not trained here. On a small task (experiments/modern/fashion_mnist.py) the
recipe without cutmix was better than the paper's, and with cutmix worse.
Cost of training, computed: 2.6e15 FLOP for 30 epochs, 8.6e15 FLOP for 100.
"""

from densenet_jax.errors import InputError
from densenet_jax.train.config import base_config

DATA = {"c10": "cifar10", "c100": "cifar100"}
EPOCHS = ("30", "100")
NAMES = tuple(f"{data}_{epochs}" for data in DATA for epochs in EPOCHS)
# What differs from the recipe of the papers.
RECIPE = {
    "learning_rate": 0.2,
    "learning_rate_schedule": "one_cycle",
    "label_smoothing": 0.1,
    "ema_decay": 0.999,
    "data.cutmix": 1.0,
}


def get_config(name: str = "c10_30"):
    if name not in NAMES:
        raise InputError(f"there is no recipe {name!r}: choose one of {', '.join(NAMES)}")
    data, epochs = name.split("_")
    config = base_config()
    config.epochs = int(epochs)
    config.model.name = "densenet_bc_k12_d100"
    config.data.name = DATA[data]
    config.data.augment = True
    config.update_from_flattened_dict(RECIPE)
    return config
