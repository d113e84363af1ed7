r"""TPAMI Figures 9 and 10: which earlier layers a layer reads.

All of its block, of the whole network, a fixed span, every second one, at distances 1, 2, 4, ...

python -m launch.sweep --sweep experiments/sweeps/connectivity.py --workdir runs/connectivity
python -m launch.sweep --sweep experiments/sweeps/connectivity.py:paper --workdir DIR \
    --on slurm --config.data.directory=DATA
"""

from experiments import figures
from experiments.sweeps import forms


def get_config(form: str = "quick"):
    return forms.get_config(form)


def get_hyper(hyper, form: str = "quick"):
    return forms.points(form, figures.FULL_CONNECTIVITY, figures.PARTIAL_CONNECTIVITY)
