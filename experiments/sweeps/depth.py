r"""Depth: layers in each dense block; the default curve of TPAMI Figures 8 to 12.

python -m launch.sweep --sweep experiments/sweeps/depth.py --workdir runs/depth
python -m launch.sweep --sweep experiments/sweeps/depth.py:paper --workdir DIR --on slurm
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
