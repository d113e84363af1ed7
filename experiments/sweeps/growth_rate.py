r"""TPAMI Figure 8, left: growth rate, how many feature maps each layer adds.

Error against FLOPs, at several depths.

python -m launch.sweep --sweep experiments/sweeps/growth_rate.py --workdir runs/growth_rate
python -m launch.sweep --sweep experiments/sweeps/growth_rate.py:paper --workdir DIR \
    --on slurm --config.data.directory=DATA
"""

from experiments import figures
from experiments.sweeps import forms


def get_config(form: str = "quick"):
    return forms.get_config(form)


def get_hyper(hyper, form: str = "quick"):
    return forms.points(form, figures.GROWTH_RATE)
