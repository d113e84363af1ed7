r"""ResNet with Stochastic Depth, 110 layers: 1,727,962 parameters.
The network for SVHN has 152 layers and 2,408,474 parameters.

python -m launch.train --config experiments/cvpr2017/table2/stochastic_depth110.py:c10+ \
    --workdir runs/stochastic_depth110_c10+ --config.data.directory=DIR

Published test error in %, by column: c10 11.66, c10+ 5.23, c100 37.80, c100+ 24.58, svhn 1.75.
Cost of training, computed: 3.4e16 FLOP on CIFAR (500 epochs of 45,000 images),
6.3e16 FLOP on SVHN (50 epochs of 598,388 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    config = recipes.stochastic_depth("stochastic_depth110", column)
    config.model.survival = 0.5
    return config
