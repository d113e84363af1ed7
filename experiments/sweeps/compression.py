r"""TPAMI Figure 8, right: the share of feature maps that a transition keeps.

Error against FLOPs, at several depths.

python -m launch.sweep --sweep experiments/sweeps/compression.py --workdir runs/compression
python -m launch.sweep --sweep experiments/sweeps/compression.py:paper --workdir DIR \
    --on slurm --config.data.directory=DATA
"""

from experiments import figures
from experiments.sweeps import forms


def get_config(form: str = "quick"):
    return forms.get_config(form)


def get_hyper(hyper, form: str = "quick"):
    return forms.points(form, figures.COMPRESSION)
