r"""Plain DenseNet against C, B and BC of as many parameters, L=22: 10,000 images, 3 epochs.

python -m launch.sweep --sweep experiments/fashion_mnist/variants.py --workdir runs/variants \
    --on local

Parameters: plain k=4 41,314; C k=6 41,374; B k=8 43,114; BC k=9 40,404. Five seeds each.
"""

from experiments.sweeps import forms

NETWORKS = ("densenet_k4_d22", "densenet_c_k6_d22", "densenet_b_k8_d22", "densenet_bc_k9_d22")


def get_config():
    return forms.quick()


def get_hyper(hyper):
    return hyper.product(
        [
            hyper.sweep("config.model.name", NETWORKS),
            hyper.sweep("config.seed", range(5)),
        ]
    )
