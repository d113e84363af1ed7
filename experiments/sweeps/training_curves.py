r"""TPAMI Figure 4 (CVPR Figure 4), right: training curves of a DenseNet-BC and a larger ResNet.

python -m launch.sweep --sweep experiments/sweeps/training_curves.py --workdir runs/training_curves
python -m launch.sweep --sweep experiments/sweeps/training_curves.py:paper --workdir DIR \
    --on slurm --config.data.directory=DATA

Quick form: 2 networks, 8 epochs of 10,000 images of Fashion-MNIST each.
Paper form: 2 networks, 300 epochs of CIFAR-10 each.
Published test error in %: 4.51 (DenseNet-BC, L = 100) and 4.45 (ResNet-1001).
"""

from experiments import figures
from experiments.sweeps import forms


def get_config(form: str = "quick"):
    config = forms.get_config(form, forms.cifar10)
    if form == "quick":
        # The learning rate drops in steps, as in the paper, so that the drops show in the curves.
        config.epochs = 8
        config.eval_every_epochs = 1
        config.learning_rate_schedule = "steps"
    return config


def get_hyper(hyper, form: str = "quick"):
    networks = figures.TRAINING_CURVES.values()
    names = [network.quick if form == "quick" else network.model for network in networks]
    return hyper.sweep("config.model.name", names)
