r"""Snapshot ensemble (arXiv 1704.00109) of DenseNet (k = 24), 100 layers: 27,249,082 parameters.

python -m launch.train --config experiments/snapshots/densenet_k24_d100.py:c10+ \
    --workdir runs/snapshots_c10+ --config.data.directory=DIR

Published test error of the ensemble in %, by column: c10+ 3.44, c100+ 17.41.
Cost of training, computed: 6.2e17 FLOP (300 epochs of 50,000 images).

Sources: the paper states the schedule of the learning rate, and its abstract rounds the errors to
3.4 and 17.4. The README of the authors' code has the initial rate of 0.2 and batches of 64, in an
example for ResNet-110. Not verified, because the table of the paper was not available: the second
decimals of the errors, the depth and the growth rate, 300 epochs and 6 cycles. The other settings
are those of the DenseNet paper.
"""

from densenet_jax.errors import InputError
from experiments.cvpr2017 import recipes
from experiments.published import SNAPSHOTS

MODEL = "densenet_k24_d100"


def get_config(column: str = "c10+"):
    if column not in SNAPSHOTS[MODEL]:
        raise InputError(
            f"no snapshot ensemble is published for {column!r}: choose one of "
            f"{', '.join(SNAPSHOTS[MODEL])}"
        )
    config = recipes.densenet(MODEL, column)
    config.learning_rate = 0.2
    config.learning_rate_schedule = "cosine"
    config.learning_rate_cycles = 6
    return config
