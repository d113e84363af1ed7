r"""TPAMI Figure 4 (CVPR Figure 4), left and middle: error against parameters.

DenseNets plain, with bottlenecks (B), compression (C) and both (BC); pre-activation ResNets.

python -m launch.sweep --sweep experiments/sweeps/parameter_efficiency.py --workdir runs/fig4
python -m launch.sweep --sweep experiments/sweeps/parameter_efficiency.py:paper --workdir DIR \
    --on slurm --config.data.directory=DATA
"""

from experiments import figures
from experiments.sweeps import forms


def get_config(form: str = "quick"):
    return forms.get_config(form, forms.cifar10)


def get_hyper(hyper, form: str = "quick"):
    return forms.points(form, figures.PARAMETER_EFFICIENCY)
