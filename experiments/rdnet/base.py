r"""RDNet-B.

python -m launch.train --config experiments/rdnet/base.py --workdir runs/rdnet_base \
    --config.data.directory=DIR

Published top-1 accuracy in %: 84.4 (the authors), 84.366 (timm, with the authors' weights).
Parameters: 87,451,096. Cost of training, computed: 3.5e19 FLOP (300 epochs of 1,281,167 images).
Least memory of a step, computed: 169 GB over all devices. --config.accumulate=2 halves it, as the
authors did on 4 GPUs. Not trained here.
"""

from experiments.rdnet import recipes


def get_config():
    return recipes.rdnet("rdnet_base", drop_path_rate=0.4)
