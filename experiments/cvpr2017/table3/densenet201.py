r"""DenseNet-201: 20,013,928 parameters.

python -m launch.train --config experiments/cvpr2017/table3/densenet201.py \
    --workdir runs/densenet201 --config.data.directory=DIR

Published validation error in %, single crop / 10 crop: top-1 22.58 / 21.46, top-5 6.34 / 5.54.
Cost of training, computed: 3.0e18 FLOP (90 epochs of 1,281,167 images).
Upper bound on the training speed, from convolutions alone: 17,600 images/s on an H100 in
bfloat16, 34,300 on a TPU v5e-8.
"""

from experiments.cvpr2017 import recipes


def get_config():
    return recipes.imagenet("densenet201")
