r"""DenseNet-cosine-264 of "Memory-Efficient Implementation of DenseNets" (arXiv 1707.06990).

python -m launch.train --config experiments/technical_report/densenet_cosine264.py:k48 \
    --workdir runs/densenet_cosine264_k48 --config.data.directory=DIR

Published top-1 error in %, single crop: k32 21.6, k48 20.4 (20.26 in the report's abstract).
Parameters: k32 33,337,704; k48 72,686,632.
Cost of training, computed: k32 4.0e18 FLOP, k48 8.9e18 FLOP (90 epochs of 1,281,167 images). The
number of epochs that the authors trained is not known.
Upper bound on the training speed in images/s, from convolutions alone: k32 13,400, k48 8,900 on an
H100 in bfloat16; k32 26,100, k48 17,500 on a TPU v5e-8.
"""

from densenet_jax.errors import InputError
from experiments.cvpr2017 import recipes

GROWTH_RATES = {"k32": 32, "k48": 48}


def get_config(growth_rate: str = "k48"):
    if growth_rate not in GROWTH_RATES:
        raise InputError(
            f"there is no DenseNet-cosine-264 with {growth_rate!r}: choose one of k32, k48"
        )
    config = recipes.imagenet("densenet264")
    config.model.growth_rate = GROWTH_RATES[growth_rate]
    config.learning_rate_schedule = "cosine"
    return config
