r"""DenseNet-264: 33,337,704 parameters.

python -m launch.train --config experiments/cvpr2017/table3/densenet264.py \
    --workdir runs/densenet264 --config.data.directory=DIR

Published validation error in %, single crop / 10 crop: top-1 22.15 / 20.80, top-5 6.12 / 5.29.
Cost of training, computed: 4.0e18 FLOP (90 epochs of 1,281,167 images).
Upper bound on the training speed, from convolutions alone: 13,400 images/s on an H100 in
bfloat16, 26,100 on a TPU v5e-8.
"""

from experiments.cvpr2017 import recipes


def get_config():
    return recipes.imagenet("densenet264")
