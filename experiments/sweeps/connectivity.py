r"""TPAMI Figures 9 and 10: which earlier layers a layer reads.

Layers read all earlier layers of the block or of the network, a fixed span of them, every second
one, or those at distances 1, 2, 4 and so on.

python -m launch.sweep --sweep experiments/sweeps/connectivity.py --workdir runs/connectivity
python -m launch.sweep --sweep experiments/sweeps/connectivity.py:paper --workdir DIR \
    --on slurm --config.data.directory=DATA

Quick form: 15 networks, 3 epochs of 10,000 images of Fashion-MNIST each.
Paper form: 26 networks, 90 epochs of ImageNet each.
Published top-1 error in %: 28.01 (logarithmic, depth 101) to 22.41 (all earlier layers, depth 265).
"""

from experiments import figures
from experiments.sweeps import forms


def get_config(form: str = "quick"):
    return forms.get_config(form)


def get_hyper(hyper, form: str = "quick"):
    return forms.points(form, figures.FULL_CONNECTIVITY, figures.PARTIAL_CONNECTIVITY)
