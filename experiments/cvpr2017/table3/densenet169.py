r"""DenseNet-169: 14,149,480 parameters.

python -m launch.train --config experiments/cvpr2017/table3/densenet169.py \
    --workdir runs/densenet169 --config.data.directory=DIR

Published validation error in %, single crop / 10 crop: top-1 23.80 / 22.08, top-5 6.85 / 5.92.
Cost of training, computed: 2.3e18 FLOP (90 epochs of 1,281,167 images).
Upper bound on the training speed, from convolutions alone: 21,800 images/s on an H100 in
bfloat16, 42,700 on a TPU v5e-8.
"""

from experiments.cvpr2017 import recipes


def get_config():
    return recipes.imagenet("densenet169")
