r"""Compression: the share of feature maps that a transition keeps.

python -m launch.sweep --sweep experiments/sweeps/compression.py --workdir runs/compression
python -m launch.sweep --sweep experiments/sweeps/compression.py:paper --workdir DIR --on slurm
"""

from experiments.sweeps import forms

QUICK = (0.3, 0.5, 0.7, 1.0)
# TPAMI, printed Figure 8: values, and the depths that it shows of each.
PAPER = {0.3: "ABCDEF", 0.5: "ABCDE", 0.7: "ABCDE", 1.0: "ABCD"}


def get_config(form: str = "quick"):
    return forms.get_config(form)


def get_hyper(hyper, form: str = "quick"):
    return forms.points(hyper, form, "compression", QUICK, PAPER)
