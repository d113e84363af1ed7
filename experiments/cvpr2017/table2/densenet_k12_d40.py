r"""DenseNet (k = 12), 40 layers: 1,019,722 parameters.

python -m launch.train --config experiments/cvpr2017/table2/densenet_k12_d40.py:c10+ \
    --workdir runs/densenet_k12_d40_c10+ --config.data.directory=DIR

Published test error in %, by column: c10 7.00, c10+ 5.24, c100 27.55, c100+ 24.42, svhn 1.79.
Cost of training, computed: 2.4e16 FLOP on CIFAR (300 epochs of 50,000 images),
3.8e16 FLOP on SVHN (40 epochs of 598,388 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    return recipes.densenet("densenet_k12_d40", column)
