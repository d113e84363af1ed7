r"""TPAMI Figure 11: a growth rate that doubles from block to block.

Shows error against parameters and FLOPs, at several depths.

python -m launch.sweep --sweep experiments/sweeps/exponential_growth.py --workdir runs/fig11
python -m launch.sweep --sweep experiments/sweeps/exponential_growth.py:paper --workdir DIR \
    --on slurm --config.data.directory=DATA

Quick form: 6 networks, 3 epochs of 10,000 images of Fashion-MNIST each.
Paper form: 10 networks, 90 epochs of ImageNet each.
Published top-1 error in %: 28.22 (k = 8, 16, 32, 64, depth 101) to 22.41 (k = 32, depth 265).
"""

from experiments import figures
from experiments.sweeps import forms


def get_config(form: str = "quick"):
    return forms.get_config(form)


def get_hyper(hyper, form: str = "quick"):
    return forms.points(form, figures.EXPONENTIAL_GROWTH)
