r"""TPAMI Figure 8, left: growth rate k, the number of feature maps that a layer adds.

Shows error against FLOPs, at several depths.

python -m launch.sweep --sweep experiments/sweeps/growth_rate.py --workdir runs/growth_rate
python -m launch.sweep --sweep experiments/sweeps/growth_rate.py:paper --workdir DIR \
    --on slurm --config.data.directory=DATA

Quick form: 15 networks, 3 epochs of 10,000 images of Fashion-MNIST each.
Paper form: 26 networks, 90 epochs of ImageNet each.
Published top-1 error in %: 45.05 (k = 8, depth 101) to 22.08 (k = 40, depth 201).
"""

from experiments import figures
from experiments.sweeps import forms


def get_config(form: str = "quick"):
    return forms.get_config(form)


def get_hyper(hyper, form: str = "quick"):
    return forms.points(form, figures.GROWTH_RATE)
