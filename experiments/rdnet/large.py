r"""RDNet-L.

python -m launch.train --config experiments/rdnet/large.py --workdir runs/rdnet_large \
    --config.data.directory=DIR

Published top-1 accuracy in %: 84.8 (the authors), 84.794 (timm, with the authors' weights).
Parameters: 186,269,632. Cost of training, computed: 8.0e19 FLOP (300 epochs of 1,281,167 images).
Least memory of a step, computed: 254 GB over all devices. --config.accumulate=2 halves it, as the
authors did on 4 GPUs. Not trained here.
"""

from experiments.rdnet import recipes


def get_config():
    return recipes.rdnet("rdnet_large", drop_path_rate=0.5)
