r"""TPAMI Figure 12: BatchNorm and ReLU before each convolution, or once after it.

Shows error against parameters, at several depths.

python -m launch.sweep --sweep experiments/sweeps/post_activation.py --workdir runs/post_activation
python -m launch.sweep --sweep experiments/sweeps/post_activation.py:paper --workdir DIR \
    --on slurm --config.data.directory=DATA

Quick form: 6 networks, 3 epochs of 10,000 images of Fashion-MNIST each.
Paper form: 9 networks, 90 epochs of ImageNet each.
Published top-1 error in %: 27.25 (post-activation, depth 101) to 22.41 (pre-activation, depth 265).
"""

from experiments import figures
from experiments.sweeps import forms


def get_config(form: str = "quick"):
    return forms.get_config(form)


def get_hyper(hyper, form: str = "quick"):
    return forms.points(form, figures.POST_ACTIVATION)
