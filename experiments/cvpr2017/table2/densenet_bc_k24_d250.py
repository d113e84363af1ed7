r"""DenseNet-BC (k = 24), 250 layers: 15,324,406 parameters.

python -m launch.train --config experiments/cvpr2017/table2/densenet_bc_k24_d250.py:c10+ \
    --workdir runs/densenet_bc_k24_d250_c10+ --config.data.directory=DIR

Published test error in %, by column: c10 5.19, c10+ 3.62, c100 19.64, c100+ 17.60, svhn 1.74.
Cost of training, computed: 4.9e17 FLOP on CIFAR (300 epochs of 50,000 images),
7.8e17 FLOP on SVHN (40 epochs of 598,388 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    return recipes.densenet("densenet_bc_k24_d250", column)
