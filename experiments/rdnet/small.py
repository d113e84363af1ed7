r"""RDNet-S.

python -m launch.train --config experiments/rdnet/small.py --workdir runs/rdnet_small \
    --config.data.directory=DIR

Published top-1 accuracy in %: 83.7 (the authors), 83.658 (timm, with the authors' weights).
Parameters: 50,436,448. Cost of training, computed: 2.0e19 FLOP (300 epochs of 1,281,167 images).
Least memory of a step, computed: 122 GB over all devices. --config.accumulate=2 halves it, as the
authors did on 4 GPUs. Not trained here.
"""

from experiments.rdnet import recipes


def get_config():
    return recipes.rdnet("rdnet_small", drop_path_rate=0.35)
