r"""TPAMI Figure 12: BatchNorm and ReLU before each convolution, or once after it.

Error against parameters, at several depths.

python -m launch.sweep --sweep experiments/sweeps/post_activation.py --workdir runs/post_activation
python -m launch.sweep --sweep experiments/sweeps/post_activation.py:paper --workdir DIR \
    --on slurm --config.data.directory=DATA
"""

from experiments import figures
from experiments.sweeps import forms


def get_config(form: str = "quick"):
    return forms.get_config(form)


def get_hyper(hyper, form: str = "quick"):
    return forms.points(form, figures.POST_ACTIVATION)
