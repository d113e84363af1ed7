r"""Wide ResNet, 28 layers: 36,479,194 parameters.

python -m launch.train --config experiments/cvpr2017/table2/wrn28_10.py:c10+ \
    --workdir runs/wrn28_10_c10+ --config.data.directory=DIR

Published test error in %, by column: c10+ 4.17, c100+ 20.50.
Cost of training, computed: 3.1e17 FLOP on CIFAR (200 epochs of 50,000 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    return recipes.wide_resnet("wrn28_10", column, "wrn28_10")
