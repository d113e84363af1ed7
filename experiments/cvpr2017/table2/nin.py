r"""Network in Network: 966,986 parameters.
The network for SVHN is wider: 1,986,026 parameters.

python -m launch.train --config experiments/cvpr2017/table2/nin.py:c10+ \
    --workdir runs/nin_c10+ --config.data.directory=DIR

Published test error in %, by column: c10 10.41, c10+ 8.81, c100 35.68, svhn 2.35.
Cost of training, computed: 1.7e16 FLOP on CIFAR (260 epochs of 50,000 images),
2.2e16 FLOP on SVHN (22 epochs of 604,388 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    return recipes.network_in_network("nin", column)
