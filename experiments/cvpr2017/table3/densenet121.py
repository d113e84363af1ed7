r"""DenseNet-121: 7,978,856 parameters.

python -m launch.train --config experiments/cvpr2017/table3/densenet121.py \
    --workdir runs/densenet121 --config.data.directory=DIR

Published validation error in %, single crop / 10 crop: top-1 25.02 / 23.61, top-5 7.71 / 6.66.
Cost of training, computed: 2.0e18 FLOP (90 epochs of 1,281,167 images).
Upper bound on the training speed, from convolutions alone: 25,600 images/s on an H100 in
bfloat16, 49,900 on a TPU v5e-8.
"""

from experiments.cvpr2017 import recipes


def get_config():
    return recipes.imagenet("densenet121")
