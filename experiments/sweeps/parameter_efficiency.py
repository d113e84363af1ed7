r"""TPAMI Figure 4 (CVPR Figure 4), left and middle: error against parameters.

Trains plain DenseNets, with bottlenecks (B), with compression (C) and with both (BC), and
pre-activation ResNets.

python -m launch.sweep --sweep experiments/sweeps/parameter_efficiency.py --workdir runs/fig4
python -m launch.sweep --sweep experiments/sweeps/parameter_efficiency.py:paper --workdir DIR \
    --on slurm --config.data.directory=DATA

Quick form: 20 networks, 3 epochs of 10,000 images of Fashion-MNIST each.
Paper form: 42 networks, 300 epochs of CIFAR-10 each.
Published test error in %: 15.31 (ResNet, L = 11) to 4.51 (DenseNet-BC, L = 100).
"""

from experiments import figures
from experiments.sweeps import forms


def get_config(form: str = "quick"):
    return forms.get_config(form, forms.cifar10)


def get_hyper(hyper, form: str = "quick"):
    return forms.points(form, figures.PARAMETER_EFFICIENCY)
