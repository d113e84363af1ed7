r"""ResNet with Stochastic Depth, 1202 layers: 19,421,274 parameters.
The paper prints 10.2M.

python -m launch.train --config experiments/cvpr2017/table2/stochastic_depth1202.py:c10+ \
    --workdir runs/stochastic_depth1202_c10+ --config.data.directory=DIR

Published test error in %, by column: c10+ 4.91.
Cost of training, computed: 3.8e17 FLOP on CIFAR (500 epochs of 45,000 images).
"""

from experiments.cvpr2017 import recipes


def get_config(column: str = "c10+"):
    config = recipes.stochastic_depth("stochastic_depth1202", column, "resnet1202")
    config.model.survival = 0.5
    # Huang et al. trained this network in fb.resnet.torch, with its shortcut.
    config.model.shortcut = "subsample"
    return config
