r"""TPAMI Figure 8, middle: the width of the 1x1 convolutions, as a multiple of k.

Shows error against FLOPs, at several depths.

python -m launch.sweep --sweep experiments/sweeps/bottleneck.py --workdir runs/bottleneck
python -m launch.sweep --sweep experiments/sweeps/bottleneck.py:paper --workdir DIR \
    --on slurm --config.data.directory=DATA

Quick form: 12 networks, 3 epochs of 10,000 images of Fashion-MNIST each.
Paper form: 21 networks, 90 epochs of ImageNet each.
Published top-1 error in %: 30.89 (1k, depth 101) to 22.02 (8k, depth 201).
"""

from experiments import figures
from experiments.sweeps import forms


def get_config(form: str = "quick"):
    return forms.get_config(form)


def get_hyper(hyper, form: str = "quick"):
    return forms.points(form, figures.BOTTLENECK)
