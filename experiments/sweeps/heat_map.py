r"""TPAMI Figure 6 (CVPR Figure 5): how much each layer weighs what it reads.

One network, the plain DenseNet of L = 40, k = 12; the figure is drawn from its checkpoint.

python -m launch.sweep --sweep experiments/sweeps/heat_map.py --workdir runs/heat_map
python -m launch.sweep --sweep experiments/sweeps/heat_map.py:paper --workdir DIR \
    --config.data.directory=DATA
"""

from experiments.sweeps import forms


def get_config(form: str = "quick"):
    return forms.get_config(form, forms.cifar10)


def get_hyper(hyper, form: str = "quick"):
    return hyper.sweep("config.model.name", ["densenet_k12_d40"])
