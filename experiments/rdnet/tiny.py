r"""RDNet-T.

python -m launch.train --config experiments/rdnet/tiny.py --workdir runs/rdnet_tiny \
    --config.data.directory=DIR

Published top-1 accuracy in %: 82.8 (the authors), 82.814 (timm, with the authors' weights).
Parameters: 23,863,008. Cost of training, computed: 1.2e19 FLOP (300 epochs of 1,281,167 images).
Least memory of a step, computed: 87 GB over all devices. --config.accumulate=2 halves it, as the
authors did on 4 GPUs. Not trained here.
"""

from experiments.rdnet import recipes


def get_config():
    return recipes.rdnet("rdnet_tiny", drop_path_rate=0.15)
