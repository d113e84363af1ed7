r"""ResNet (pre-activation), 164 layers: 1,703,258 parameters.

python -m launch.train --config experiments/cvpr2017/table2/preresnet164.py:c10+ \
    --workdir runs/preresnet164_c10+ --config.data.directory=DIR

Published test error in %, by column: c10 11.26, c10+ 5.46, c100 35.58, c100+ 24.33.
Cost of training, computed: 1.5e16 FLOP on CIFAR (200 epochs of 50,000 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    return recipes.preactivation_resnet("preresnet164", column)
