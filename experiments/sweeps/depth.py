r"""Depth: the number of layers in each dense block; the default curve of TPAMI Figures 8 to 12.

python -m launch.sweep --sweep experiments/sweeps/depth.py --workdir runs/depth
python -m launch.sweep --sweep experiments/sweeps/depth.py:paper --workdir DIR --on slurm

Quick form: 4 networks, 3 epochs of 10,000 images of Fashion-MNIST each.
Paper form: 6 networks, 90 epochs of ImageNet each.
Published top-1 error in %: 26.42 (depth 101) to 22.41 (depth 265).
"""

from experiments import figures
from experiments.sweeps import forms

QUICK = (10, 16, 22, 28)


def get_config(form: str = "quick"):
    return forms.get_config(form)


def get_hyper(hyper, form: str = "quick"):
    if form == "quick":
        return hyper.sweep("config.model.depth", QUICK)
    return hyper.sweep("config.model.block_config", figures.DEPTHS.values())
