r"""DenseNet (k = 12), 100 layers: 6,979,642 parameters.

python -m launch.train --config experiments/cvpr2017/table2/densenet_k12_d100.py:c10+ \
    --workdir runs/densenet_k12_d100_c10+ --config.data.directory=DIR

Published test error in %, by column: c10 5.77, c10+ 4.10, c100 23.79, c100+ 20.20, svhn 1.67.
Cost of training, computed: 1.6e17 FLOP on CIFAR (300 epochs of 50,000 images),
2.5e17 FLOP on SVHN (40 epochs of 598,388 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    return recipes.densenet("densenet_k12_d100", column)
