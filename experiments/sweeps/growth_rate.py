r"""Growth rate: how many feature maps each layer adds.

python -m launch.sweep --sweep experiments/sweeps/growth_rate.py --workdir runs/growth_rate
python -m launch.sweep --sweep experiments/sweeps/growth_rate.py:paper --workdir DIR --on slurm
"""

from experiments.sweeps import forms

QUICK = (4, 8, 12, 16)
# TPAMI, printed Figure 8: values, and the depths that it shows of each.
PAPER = {8: "ABCDEF", 16: "BCDEF", 24: "ABCDEF", 32: "ABCDE", 40: "ABCD"}


def get_config(form: str = "quick"):
    return forms.get_config(form)


def get_hyper(hyper, form: str = "quick"):
    return forms.points(hyper, form, "growth_rate", QUICK, PAPER)
