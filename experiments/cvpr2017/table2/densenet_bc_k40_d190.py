r"""DenseNet-BC (k = 40), 190 layers: 25,624,430 parameters.

python -m launch.train --config experiments/cvpr2017/table2/densenet_bc_k40_d190.py:c10+ \
    --workdir runs/densenet_bc_k40_d190_c10+ --config.data.directory=DIR

Published test error in %, by column: c10+ 3.46, c100+ 17.18.
Cost of training, computed: 8.4e17 FLOP on CIFAR (300 epochs of 50,000 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    return recipes.densenet("densenet_bc_k40_d190", column)
