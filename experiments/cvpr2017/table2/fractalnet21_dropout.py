r"""FractalNet with Dropout/Drop-path, 21 layers: 33,714,314 parameters.
The paper prints 38.6M.

python -m launch.train --config experiments/cvpr2017/table2/fractalnet21_dropout.py:c10+ \
    --workdir runs/fractalnet21_dropout_c10+ --config.data.directory=DIR

Published test error in %, by column: c10 7.33, c10+ 4.60, c100 28.20, c100+ 23.73, svhn 1.87.
Cost of training, computed: 1.0e17 FLOP on CIFAR (400 epochs of 50,000 images),
6.1e16 FLOP on SVHN (20 epochs of 604,388 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    config = recipes.fractalnet("fractalnet21_dropout", column)
    config.model.dropout_rate = 0.4
    config.model.drop_path_rate = 0.15
    return config
