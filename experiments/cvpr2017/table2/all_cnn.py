r"""All-CNN: 1,369,738 parameters.

python -m launch.train --config experiments/cvpr2017/table2/all_cnn.py:c10+ \
    --workdir runs/all_cnn_c10+ --config.data.directory=DIR

Published test error in %, by column: c10 9.08, c10+ 7.25, c100+ 33.71.
Cost of training, computed: 3.0e16 FLOP on CIFAR (350 epochs of 50,000 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    return recipes.all_cnn("all_cnn", column)
