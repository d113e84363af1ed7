"""Random changes to training images, inside jit.

The changes are a function of (seed, epoch, example): a key contains the seed and the epoch.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from densenet_jax.data.batches import Batch
from densenet_jax.data.mixing import erase, mix
from densenet_jax.data.random_augment import random_augment
from densenet_jax.data.trivial_augment import trivial_augment

# Constants of fb.resnet.torch: the weights of red, green and blue in grey; the principal components
# of ImageNet's colours, in columns; and their standard deviations, on a scale of 0 to 1.
_GREY = np.array([0.299, 0.587, 0.114])
COMPONENTS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
DEVIATIONS = np.array([0.2175, 0.0188, 0.0045])
# Indices of no example: separate the random numbers of the changes.
_OF_TRIVIAL, _OF_RANDOM = 2**31 - 1, 2**31 - 2


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The random changes to training images.

    Attributes:
      crop_padding, padding_mode, flip: see `shift_and_flip`.
      color_jitter, lighting, white: see `change_colors`.
      trivial: whether to change images by `trivial_augment`.
      random: strength of `random_augment`; 0: none.
      mean: mean colour of the data, which fills what `random_augment` uncovers.
      mixup, cutmix, random_erasing: see `mixing.mix` and `mixing.erase`; 0: not used.
    """

    crop_padding: int
    padding_mode: str
    flip: bool
    color_jitter: float
    lighting: float
    white: float
    trivial: bool = False
    random: float = 0.0
    mean: tuple[float, ...] = ()
    mixup: float = 0.0
    cutmix: float = 0.0
    random_erasing: float = 0.0

    def of_colors(self, images: jax.Array, indices: jax.Array, key: jax.Array) -> jax.Array:
        """Changes images that are not yet normalised: by a policy, then their colours."""
        if self.trivial:
            images = trivial_augment(
                images, indices, jax.random.fold_in(key, _OF_TRIVIAL), self.white
            )
        if self.random:
            random_key = jax.random.fold_in(key, _OF_RANDOM)
            images = random_augment(images, indices, random_key, self.random, self.mean, self.white)
        if not (self.color_jitter or self.lighting):
            return images
        images = images.astype(jnp.float32)
        return change_colors(images, indices, key, self.color_jitter, self.lighting, self.white)

    def of_place(self, images: jax.Array, indices: jax.Array, key: jax.Array) -> jax.Array:
        """Shifts and flips normalised images."""
        return shift_and_flip(images, indices, key, self.crop_padding, self.flip, self.padding_mode)

    def of_batch(self, batch: Batch, indices: jax.Array, key: jax.Array) -> Batch:
        """Mixes normalised images with each other, then erases boxes of them, as timm does."""
        mix_key, erase_key = jax.random.split(key)
        if self.mixup or self.cutmix:
            batch = mix(batch, indices, mix_key, self.mixup, self.cutmix)
        if self.random_erasing:
            images = erase(batch.images, indices, erase_key, self.random_erasing)
            batch = batch._replace(images=images)
        return batch


def shift_and_flip(
    images: jax.Array,
    indices: jax.Array,
    key: jax.Array,
    padding: int,
    flip: bool,
    padding_mode: str = "zeros",
) -> jax.Array:
    """Flips half of the images, adds a border, and crops at random, as the papers' authors do.

    The images are normalised, so a border of zeros has the mean colour.

    Args:
      images: `[N, H, W, C]`.
      indices: `[N]`, indices of the examples.
      key: the key of this epoch.
      padding: width of the border in pixels; the crop has the size of the image.
      flip: whether to flip.
      padding_mode: "zeros", or "reflect", which mirrors the image without repeating its edge.
    """
    mode = "constant" if padding_mode == "zeros" else padding_mode

    def one(image: jax.Array, index: jax.Array) -> jax.Array:
        crop_key, flip_key = jax.random.split(jax.random.fold_in(key, index))
        if flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        if padding == 0:
            return image
        padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode=mode)
        top, left = jax.random.randint(crop_key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)

    return jax.vmap(one)(images, indices)


def change_colors(
    images: jax.Array,
    indices: jax.Array,
    key: jax.Array,
    jitter: float,
    lighting: float,
    white: float = 255,
) -> jax.Array:
    """Changes brightness, contrast, saturation (as in fb.resnet.torch) and light (as in AlexNet).

    The first three blend an image with black, with its mean grey, and with its grey version. The
    share of the image is drawn from 1 - jitter to 1 + jitter. Values are not clipped, so the order
    of the blends, which is random in fb.resnet.torch, does not matter.

    Args:
      images: float `[N, H, W, 3]`, from 0 to `white`.
      indices: `[N]`, indices of the examples.
      key: the key of this epoch.
      jitter: strength of the three blends, from 0 to 1.
      lighting: standard deviation of the factors of the principal components.
      white: largest value of a pixel.
    """
    dtype = images.dtype

    def one(image: jax.Array, index: jax.Array) -> jax.Array:
        share_key, light_key = jax.random.split(jax.random.fold_in(key, index))
        shares = jax.random.uniform(share_key, (3,), dtype, 1 - jitter, 1 + jitter)
        brightness, contrast, saturation = shares
        grey = (image * jnp.asarray(_GREY, dtype)).sum(-1, keepdims=True)
        saturated = saturation * image + (1 - saturation) * grey
        contrasted = contrast * saturated + (1 - contrast) * grey.mean()
        factors = lighting * jax.random.normal(light_key, (3,), dtype)
        light = (jnp.asarray(white * COMPONENTS * DEVIATIONS, dtype) * factors).sum(-1)
        return brightness * contrasted + light

    return jax.vmap(one)(images, indices)
