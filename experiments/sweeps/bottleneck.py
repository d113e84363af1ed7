r"""TPAMI Figure 8, middle: the width of the 1x1 convolutions, in growth rates.

Error against FLOPs, at several depths.

python -m launch.sweep --sweep experiments/sweeps/bottleneck.py --workdir runs/bottleneck
python -m launch.sweep --sweep experiments/sweeps/bottleneck.py:paper --workdir DIR \
    --on slurm --config.data.directory=DATA
"""

from experiments import figures
from experiments.sweeps import forms


def get_config(form: str = "quick"):
    return forms.get_config(form)


def get_hyper(hyper, form: str = "quick"):
    return forms.points(form, figures.BOTTLENECK)
