"""Fine-tunes pretrained weights on any pictures in class directories.

python -m launch.train --config experiments/transfer/folder.py --workdir runs/pets \\
    --config.data.directory=PICTURES --config.init_from=densenet121.safetensors

PICTURES holds CLASS/picture.jpg, of which every fifth picture is for testing. It may instead hold
train/CLASS/picture.jpg and val/CLASS/picture.jpg. `init_from` may also be
hf:timm/densenet121.tv_in1k, or a run directory.

--config.freeze=all-but-head trains the classifier alone. --config.freeze="^(conv0|norm0|blocks/0)/"
keeps the stem and the first block, with their running statistics. --config.freeze_epochs=5 trains
everything after 5 epochs. --config.layer_decay=0.7 lowers the learning rate from block to block.

python -m launch.predict cat.jpg --weights runs/pets

classifies a picture with the result. Cost of training: 20 epochs of PICTURES. No published numbers.
"""

from densenet_jax.train.config import base_config


def get_config():
    config = base_config()
    config.epochs = 20
    config.batch_size = 32
    # A tenth of the rate for training from scratch, as is usual for fine-tuning.
    config.learning_rate = 0.01
    config.learning_rate_schedule = "cosine"
    config.model.name = "densenet121"
    config.data.name = "folder"
    config.data.augment = True
    config.data.crop_padding = 16
    config.data.padding_mode = "reflect"
    return config
