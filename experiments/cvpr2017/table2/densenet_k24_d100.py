r"""DenseNet (k = 24), 100 layers: 27,249,082 parameters.

python -m launch.train --config experiments/cvpr2017/table2/densenet_k24_d100.py:c10+ \
    --workdir runs/densenet_k24_d100_c10+ --config.data.directory=DIR

Published test error in %, by column: c10 5.83, c10+ 3.74, c100 23.42, c100+ 19.25, svhn 1.59.
Cost of training, computed: 6.2e17 FLOP on CIFAR (300 epochs of 50,000 images),
9.9e17 FLOP on SVHN (40 epochs of 598,388 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    return recipes.densenet("densenet_k24_d100", column)
