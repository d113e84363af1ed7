r"""TPAMI Figure 8, right: the share of feature maps that a transition keeps.

Shows error against FLOPs, at several depths.

python -m launch.sweep --sweep experiments/sweeps/compression.py --workdir runs/compression
python -m launch.sweep --sweep experiments/sweeps/compression.py:paper --workdir DIR \
    --on slurm --config.data.directory=DATA

Quick form: 12 networks, 3 epochs of 10,000 images of Fashion-MNIST each.
Paper form: 20 networks, 90 epochs of ImageNet each.
Published top-1 error in %: 27.20 (θ = 0.3, depth 101) to 22.17 (θ = 0.7, depth 265).
"""

from experiments import figures
from experiments.sweeps import forms


def get_config(form: str = "quick"):
    return forms.get_config(form)


def get_hyper(hyper, form: str = "quick"):
    return forms.points(form, figures.COMPRESSION)
