r"""Highway Network: 2,256,838 parameters.

python -m launch.train --config experiments/cvpr2017/table2/highway19.py:c10+ \
    --workdir runs/highway19_c10+ --config.data.directory=DIR

Published test error in %, by column: c10+ 7.72, c100+ 32.39.
Cost of training, computed: 4.0e16 FLOP on CIFAR (400 epochs of 50,000 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    return recipes.highway("highway19", column)
