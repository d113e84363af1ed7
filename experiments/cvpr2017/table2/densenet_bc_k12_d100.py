r"""DenseNet-BC (k = 12), 100 layers: 769,162 parameters.

python -m launch.train --config experiments/cvpr2017/table2/densenet_bc_k12_d100.py:c10+ \
    --workdir runs/densenet_bc_k12_d100_c10+ --config.data.directory=DIR

Published test error in %, by column: c10 5.92, c10+ 4.51, c100 24.15, c100+ 22.27, svhn 1.76.
Cost of training, computed: 2.6e16 FLOP on CIFAR (300 epochs of 50,000 images),
4.1e16 FLOP on SVHN (40 epochs of 598,388 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    return recipes.densenet("densenet_bc_k12_d100", column)
