r"""TPAMI Figure 7: memory and time of training steps on the devices of this machine.

Trains DenseNet-BC, k = 12, in batches of 64, at each depth with each value of `remat`. "none"
keeps the same arrays as the papers' naive implementations; "concat" as their efficient ones.
`launch.plan --out` reports the memory for other hardware.

python -m launch.sweep --sweep experiments/sweeps/memory.py --workdir runs/memory --parallel 1
python -m launch.sweep --sweep experiments/sweeps/memory.py:paper --workdir DIR --parallel 1

Quick form: 12 networks. Paper form: 48 networks. Each trains for 2 epochs of synthetic images.
Published memory in GB for L = 214, in PyTorch: 8.36 naive, 3.15 efficient.
"""

from densenet_jax.train.config import base_config
from experiments import figures
from experiments.sweeps import forms

_QUICK_DEPTHS = (16, 28, 40, 52)


def get_config(form: str = "quick"):
    return forms.get_config(form, _few_steps, quick=_few_steps)


def get_hyper(hyper, form: str = "quick"):
    shown = figures.MEMORY_BY_DEPTH["efficient PyTorch"]
    return hyper.product(
        [
            hyper.sweep("config.model.depth", _QUICK_DEPTHS if form == "quick" else list(shown)),
            hyper.sweep("config.model.remat", ["none", "concat", "layer"]),
        ]
    )


def _few_steps():
    config = base_config()
    config.epochs = 2
    config.eval_every_epochs = 2
    config.model.name = "densenet_bc_k12_d100"
    config.data.name = "synthetic"
    return config
