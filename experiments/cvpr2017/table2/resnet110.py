r"""ResNet, 110 layers: 1,727,962 parameters.

python -m launch.train --config experiments/cvpr2017/table2/resnet110.py:c10+ \
    --workdir runs/resnet110_c10+ --config.data.directory=DIR

Published test error in %, by column: c10+ 6.61.
Cost of training, computed: 1.2e16 FLOP on CIFAR (164 epochs of 50,000 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    return recipes.resnet("resnet110", column)
