r"""TPAMI Figure 4 (CVPR Figure 4), right: training curves of a DenseNet-BC and a larger ResNet.

python -m launch.sweep --sweep experiments/sweeps/training_curves.py --workdir runs/training_curves
python -m launch.sweep --sweep experiments/sweeps/training_curves.py:paper --workdir DIR \
    --on slurm --config.data.directory=DATA
"""

from experiments import figures
from experiments.sweeps import forms


def get_config(form: str = "quick"):
    config = forms.get_config(form, forms.cifar10)
    if form == "quick":
        # As in the paper the rate drops, and one sees what comes of it.
        config.epochs = 8
        config.eval_every_epochs = 1
        config.learning_rate_schedule = "steps"
    return config


def get_hyper(hyper, form: str = "quick"):
    networks = figures.TRAINING_CURVES.values()
    names = [network.quick if form == "quick" else network.model for network in networks]
    return hyper.sweep("config.model.name", names)
