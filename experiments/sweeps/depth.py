r"""Depth: layers in each dense block; the default curve of TPAMI Figures 8 to 12.

python -m launch.sweep --sweep experiments/sweeps/depth.py --workdir runs/depth
python -m launch.sweep --sweep experiments/sweeps/depth.py:paper --workdir DIR --on slurm
"""

from experiments import figures
from experiments.sweeps import forms


def get_config(form: str = "quick"):
    return forms.get_config(form)


def get_hyper(hyper, form: str = "quick"):
    return forms.points(form, figures.POST_ACTIVATION[:1])
