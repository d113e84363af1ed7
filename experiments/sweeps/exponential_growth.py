r"""TPAMI Figure 11: a growth rate that doubles from block to block.

Error against parameters and FLOPs, at several depths.

python -m launch.sweep --sweep experiments/sweeps/exponential_growth.py --workdir runs/fig11
python -m launch.sweep --sweep experiments/sweeps/exponential_growth.py:paper --workdir DIR \
    --on slurm --config.data.directory=DATA
"""

from experiments import figures
from experiments.sweeps import forms


def get_config(form: str = "quick"):
    return forms.get_config(form)


def get_hyper(hyper, form: str = "quick"):
    return forms.points(form, figures.EXPONENTIAL_GROWTH)
