r"""DenseNet-161: 28,681,000 parameters.

python -m launch.train --config experiments/cvpr2017/table3/densenet161.py \
    --workdir runs/densenet161 --config.data.directory=DIR

Published validation error in %, single crop / 10 crop: top-1 22.33 / 20.85, top-5 6.15 / 5.30.
Cost of training, computed: 5.9e18 FLOP (100 epochs of 1,281,167 images).
Upper bound on the training speed, from convolutions alone: 14,200 images/s on an H100 in
bfloat16, 27,800 on a TPU v5e-8.
"""

from experiments.cvpr2017 import recipes


def get_config():
    config = recipes.imagenet("densenet161")
    # The CVPR edition gives this network a separate schedule. The four GPUs are a guess.
    config.batch_size = 128
    config.model.bn_group_size = 32
    recipes.set_step_epochs(config, 100, 31, 61, 91)
    return config
