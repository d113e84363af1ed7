r"""DenseNet-121 by timm's recipe "RA", with RandAugment: densenet121.ra_in1k.

python -m launch.train --config experiments/timm/densenet121_ra.py --workdir runs/densenet121_ra \
    --config.data.directory=DIR

Published top-1 / top-5 accuracy in %: 75.574 / 92.648 at 224 pixels, 76.486 / 93.378 at 288. The
paper's recipe: 74.98 / 92.29.
timm names the parts of the recipe: RMSProp as in TensorFlow, an average of the weights, a rate that
falls in steps, warm-up, RandAugment and random erasing. It does not publish the numbers for this
network. Those here are of timm's page of training examples, for EfficientNet-B2, without its
dropout and drop path. Chosen here: the number of warm-up epochs, and RandAugment's operations, all
of which grow with the strength (timm's "inc1").
Cost of training, computed: 9.8e18 FLOP (450 epochs of 1,281,167 images). Least memory of a step,
computed: 4.0 GB over all devices. Not trained here.
"""

from densenet_jax.train.config import base_config

EPOCHS = 450
EPOCHS_PER_DROP = 2.4


def get_config():
    config = base_config()
    config.model.name = "densenet121"
    config.epochs = EPOCHS
    config.batch_size = 256
    config.dtype = "bfloat16"
    config.optimizer = "rmsprop"
    config.epsilon = 1e-3
    config.weight_decay = 1e-5
    config.weight_decay_on = "kernels"
    config.learning_rate = 0.016
    # timm counts epochs from 0, and drops the rate at the first whole epoch.
    drops = range(1, int(EPOCHS / EPOCHS_PER_DROP) + 1)
    config.learning_rate_drops = tuple((EPOCHS_PER_DROP * drop + 1) / EPOCHS for drop in drops)
    config.learning_rate_drop_factor = 0.97
    config.warmup = "linear"
    config.warmup_epochs = 3.0
    config.warmup_learning_rate = 1e-6
    config.ema_decay = 0.9999
    config.data.name = "imagenet"
    config.data.augment = True
    config.data.random_crop = "resized"
    config.data.random_augment = 9.0
    config.data.random_erasing = 0.2
    return config
