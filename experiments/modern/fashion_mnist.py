r"""The recipe of the papers against that of experiments/modern/cifar.py, on Fashion-MNIST.

python -m launch.sweep --sweep experiments/modern/fashion_mnist.py --workdir runs/modern --on local

Cost: 9 runs of a DenseNet-BC with 71,254 parameters (3 recipes, 3 seeds), 10 epochs each of 10,000
images. No published numbers. Measured: experiments/results/modern.csv.
"""

from densenet_jax.train.config import base_config, flatten
from experiments.modern import cifar

# Of 1,570 steps. An average over 1,000 steps would lag behind.
RECIPE = cifar.RECIPE | {"ema_decay": 0.99}
WITHOUT_CUTMIX = RECIPE | {"data.cutmix": 0.0}


def get_config():
    config = base_config()
    config.epochs = 10
    config.eval_every_epochs = 10
    config.model.name = "densenet_bc_k12_d22"
    config.data.name = "fashion_mnist"
    config.data.examples = 10_000
    config.data.augment = True
    return config


def get_hyper(hyper):
    recipes = flatten(get_config()), RECIPE, WITHOUT_CUTMIX
    keys = [hyper.sweep(f"config.{key}", [recipe[key] for recipe in recipes]) for key in RECIPE]
    return hyper.product([hyper.zipit(keys), hyper.sweep("config.seed", range(3))])
