"""The data of a config: the preprocessed set, and how training images are changed at random."""

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from densenet_jax.data import sources
from densenet_jax.data.augmentation import Augmentation
from densenet_jax.data.batches import Batch, normalize
from densenet_jax.data.dataset import Dataset, Split
from densenet_jax.data.pictures import decode
from densenet_jax.data.preprocessing import preprocess
from densenet_jax.errors import InputError, counted
from densenet_jax.train.config import model_settings

# Keys of the group "data" that do nothing unless data.augment is set.
_NEED_AUGMENT = (
    *("color_jitter", "lighting", "trivial_augment", "random_augment"),
    *("mixup", "cutmix", "random_erasing"),
)


def load_data(config: ConfigDict) -> Dataset:
    """Returns the preprocessed data set of a config. Raises InputError if it cannot be read."""
    data = config.data
    found = sources.load(
        *(data.name, data.directory, data.holdout, data.examples, data.image_size, data.labels),
        *(data.folds, data.fold, data.holdout_stratified),
    )
    return preprocess(found, data.preprocessing)


def training_batch(config: ConfigDict, examples: int) -> Batch:
    """Returns the first `examples` training images as the network sees them, not augmented."""
    data = load_data(config)
    dtype = model_settings(config)["dtype"]
    if isinstance(data.train, Split):
        images, labels = data.train.images[:examples], data.train.labels[:examples]
    else:
        chosen = [data.train[i] for i in range(min(examples, len(data.train)))]
        pictures = [decode(encoded.data, config.data.max_pixels) for encoded in chosen]
        images = np.stack([data.crop(picture) for picture in pictures])
        labels = np.array([encoded.label for encoded in chosen])
    indices = jnp.arange(len(labels))
    return normalize(jnp.asarray(images), jnp.asarray(labels), indices, data.mean, data.std, dtype)


def augmentation(config: ConfigDict, data: Dataset) -> Augmentation | None:
    """Returns the augmentation of a config. Raises InputError if it cannot be done to `data`."""
    wanted = config.data
    if not wanted.augment:
        for key in _NEED_AUGMENT:
            if wanted[key]:
                raise InputError(
                    f"data.{key} is {wanted[key]}, but data.augment is False: set data.augment=True"
                )
        return None
    side = min(data.image_shape[:2])
    if wanted.padding_mode == "reflect" and wanted.crop_padding >= side:
        raise InputError(
            f"images of {counted(side, 'pixel')} cannot be reflected by data.crop_padding "
            f"{wanted.crop_padding}: lower it below {side}"
        )
    if wanted.random_crop == "resized" and not data.streamed:
        raise InputError(
            f"data.random_crop 'resized' is for pictures, not for {wanted.name}: set it to "
            "'padded', or data.name to imagenet or folder"
        )
    if config.batch_size == 1 and (wanted.mixup or wanted.cutmix):
        raise InputError(
            "data.mixup and data.cutmix mix the images of a batch, but batch_size is 1: raise it"
        )
    padding = 0 if wanted.random_crop == "resized" else wanted.crop_padding
    colors = wanted.color_jitter, wanted.lighting
    if any(colors) and (data.image_shape[-1] != 3 or wanted.preprocessing != "standardize"):
        raise InputError(
            "data.color_jitter and data.lighting are for images of three colours with "
            "data.preprocessing 'standardize': set them to 0"
        )
    for key, off in (("trivial_augment", False), ("random_augment", 0)):
        if wanted[key] and wanted.preprocessing != "standardize":
            raise InputError(
                f"data.{key} is for images with data.preprocessing 'standardize': set it to {off}"
            )
    if wanted.trivial_augment and wanted.random_augment:
        raise InputError(
            f"data.trivial_augment is True and data.random_augment is {wanted.random_augment:g}, "
            "but one policy changes the images: set one of them to False or 0"
        )
    return Augmentation(
        *(padding, wanted.padding_mode, wanted.flip, *colors, data.white, wanted.trivial_augment),
        *(wanted.random_augment, data.mean),
        *(wanted.mixup, wanted.cutmix, wanted.random_erasing),
    )
