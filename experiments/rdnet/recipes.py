"""The recipe of "DenseNets Reloaded" (ECCV 2024, arXiv 2403.19588) for ImageNet.

Facts come from train_configs/rdnet.yaml of the authors' code. It differs here in this:
- The rate rises and falls in each step; timm changes it once an epoch.
- Each image draws its own share for mixup and cutmix; in timm a batch shares one draw.
- Random crops are bicubic, with a uniform ratio of sides; timm draws bilinear or bicubic, and the
  logarithm of the ratio.
- RandAugment is bilinear; timm draws bilinear or bicubic. Flips come after it.
- Training evaluates the central 224 of 256 pixels. The authors resize to 248, by
  `launch.evaluate --weights WORKDIR --pictures DIR --resize 248 --interpolation bicubic`.
"""

from ml_collections import ConfigDict

from densenet_jax.train.config import base_config


def rdnet(model: str, drop_path_rate: float) -> ConfigDict:
    """Returns the config of `model`. The authors accumulated 2 batches of 64 on each of 4 GPUs."""
    config = base_config()
    config.model.name = model
    config.model.drop_path_rate = drop_path_rate
    config.epochs = 300
    config.batch_size = 512
    config.dtype = "bfloat16"
    config.optimizer = "adamw"
    config.weight_decay = 0.05
    config.weight_decay_on = "kernels"
    config.learning_rate = 1e-3
    config.learning_rate_schedule = "cosine"
    config.final_learning_rate = 1e-6
    config.warmup = "linear"
    config.warmup_epochs = 20.0
    config.warmup_learning_rate = 1e-4
    config.label_smoothing = 0.1
    config.data.name = "imagenet"
    config.data.drop_last = True
    config.data.augment = True
    config.data.random_crop = "resized"
    config.data.random_augment = 9.0
    config.data.mixup = 0.8
    config.data.cutmix = 1.0
    config.data.random_erasing = 0.25
    return config
