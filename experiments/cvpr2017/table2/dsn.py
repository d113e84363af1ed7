r"""Deeply Supervised Net: 966,986 parameters.
In training, three companion classifiers add 2,580,510 parameters.

python -m launch.train --config experiments/cvpr2017/table2/dsn.py:c10+ \
    --workdir runs/dsn_c10+ --config.data.directory=DIR

Published test error in %, by column: c10 9.69, c10+ 7.97, c100+ 34.57, svhn 1.92.
Cost of training, computed: 2.7e16 FLOP on CIFAR (400 epochs of 50,000 images),
2.7e16 FLOP on SVHN (33 epochs of 604,388 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    return recipes.deeply_supervised("dsn", column)
