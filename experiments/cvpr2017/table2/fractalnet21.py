r"""FractalNet, 21 layers: 33,714,314 parameters.
The paper prints 38.6M.

python -m launch.train --config experiments/cvpr2017/table2/fractalnet21.py:c10+ \
    --workdir runs/fractalnet21_c10+ --config.data.directory=DIR

Published test error in %, by column: c10 10.18, c10+ 5.22, c100 35.34, c100+ 23.30, svhn 2.01.
Cost of training, computed: 1.0e17 FLOP on CIFAR (400 epochs of 50,000 images),
6.1e16 FLOP on SVHN (20 epochs of 604,388 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    return recipes.fractalnet("fractalnet21", column)
