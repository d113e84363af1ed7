r"""Wide ResNet with Dropout, 16 layers: 2,748,890 parameters.

python -m launch.train --config experiments/cvpr2017/table2/wrn16_4_dropout.py:svhn \
    --workdir runs/wrn16_4_dropout_svhn --config.data.directory=DIR

Published test error in %, by column: svhn 1.64.
Cost of training, computed: 2.3e17 FLOP on SVHN (160 epochs of 604,388 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "svhn"):
    config = recipes.wide_resnet("wrn16_4_dropout", column, "wrn16_4")
    config.model.dropout_rate = 0.4
    return config
