r"""TPAMI Figure 6 (CVPR Figure 5): the weights with which each layer reads earlier layers.

Trains the plain DenseNet of L = 40, k = 12. The figure is drawn from its checkpoint.

python -m launch.sweep --sweep experiments/sweeps/heat_map.py --workdir runs/heat_map
python -m launch.sweep --sweep experiments/sweeps/heat_map.py:paper --workdir DIR \
    --config.data.directory=DATA

Quick form: 1 network, 3 epochs of 10,000 images of Fashion-MNIST.
Paper form: 1 network, 300 epochs of CIFAR-10. Published test error in %: 5.24.
"""

from experiments.sweeps import forms


def get_config(form: str = "quick"):
    return forms.get_config(form, forms.cifar10)


def get_hyper(hyper, form: str = "quick"):
    return hyper.sweep("config.model.name", ["densenet_k12_d40"])
