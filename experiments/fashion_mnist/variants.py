r"""Plain DenseNet against C, B and BC of about equal size, L = 22, on Fashion-MNIST.

python -m launch.sweep --sweep experiments/fashion_mnist/variants.py --workdir runs/variants \
    --on local

Parameters: plain k=4 41,314; C k=6 41,374; B k=8 43,114; BC k=9 40,404.
Cost: 20 networks (4 variants, 5 seeds), 3 epochs of 10,000 images each: 33 minutes on one CPU core.
Measured test errors: experiments/results/variants. No published numbers.
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
