r"""Bottleneck: the width of the 1x1 convolutions, in growth rates.

python -m launch.sweep --sweep experiments/sweeps/bottleneck.py --workdir runs/bottleneck
python -m launch.sweep --sweep experiments/sweeps/bottleneck.py:paper --workdir DIR --on slurm
"""

from experiments.sweeps import forms

QUICK = (1, 2, 4, 8)
# TPAMI, printed Figure 8: values, and the depths that it shows of each.
PAPER = {1: "ABCDEF", 2: "ABCDEF", 4: "ABCDE", 8: "ABCD"}


def get_config(form: str = "quick"):
    return forms.get_config(form)


def get_hyper(hyper, form: str = "quick"):
    return forms.points(hyper, form, "bottleneck", QUICK, PAPER)
