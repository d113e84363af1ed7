r"""ResNet (pre-activation), 1001 layers: 10,327,706 parameters.
The paper prints 10.2M.

python -m launch.train --config experiments/cvpr2017/table2/preresnet1001.py:c10+ \
    --workdir runs/preresnet1001_c10+ --config.data.directory=DIR

Published test error in %, by column: c10 10.56, c10+ 4.62, c100 33.47, c100+ 22.71.
Cost of training, computed: 8.9e16 FLOP on CIFAR (200 epochs of 50,000 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    config = recipes.preactivation_resnet("preresnet1001", column)
    # The published 4.62 is for batches of 64; batches of 128 gave 4.92.
    config.batch_size = 64
    return config
