r"""Wide ResNet, 16 layers: 10,961,370 parameters.

python -m launch.train --config experiments/cvpr2017/table2/wrn16_8.py:c10+ \
    --workdir runs/wrn16_8_c10+ --config.data.directory=DIR

Published test error in %, by column: c10+ 4.81, c100+ 22.07.
Cost of training, computed: 9.3e16 FLOP on CIFAR (200 epochs of 50,000 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    return recipes.wide_resnet("wrn16_8", column, "wrn16_8")
