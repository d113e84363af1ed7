r"""TPAMI Figure 7: memory and time of training steps, on the devices at hand.

DenseNet-BC, k = 12, in batches of 64, on images made up on the spot; each depth with all that
`remat` can be: "none" keeps what the papers' naive implementations keep, "concat" what their
efficient ones do. `launch.plan --out` has the memory of hardware that is not at hand.

python -m launch.sweep --sweep experiments/sweeps/memory.py --workdir runs/memory --parallel 1
python -m launch.sweep --sweep experiments/sweeps/memory.py:paper --workdir DIR --parallel 1
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
