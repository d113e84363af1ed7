r"""ResNet (reported by Huang et al.), 110 layers: 1,727,962 parameters.
Trained as in the paper on stochastic depth. The network for SVHN has 152 layers and 2,408,474
parameters.

python -m launch.train --config experiments/cvpr2017/table2/resnet110_huang.py:c10+ \
    --workdir runs/resnet110_huang_c10+ --config.data.directory=DIR

Published test error in %, by column: c10 13.63, c10+ 6.41, c100 44.74, c100+ 27.22, svhn 2.01.
Cost of training, computed: 3.4e16 FLOP on CIFAR (500 epochs of 45,000 images),
6.3e16 FLOP on SVHN (50 epochs of 598,388 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    return recipes.stochastic_depth("resnet110_huang", column)
