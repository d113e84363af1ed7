"""Random changes to training images, inside jit.

They are a function of (seed, epoch, example), through the keys.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

# fb.resnet.torch's constants: of grey in red, green and blue; and the principal components of the
# colours of ImageNet, in columns, with their standard deviations on a scale of 0 to 1.
_GREY = np.array([0.299, 0.587, 0.114])
COMPONENTS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
DEVIATIONS = np.array([0.2175, 0.0188, 0.0045])


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images; see the functions below."""

    crop_padding: int
    padding_mode: str
    flip: bool
    color_jitter: float
    lighting: float
    white: float

    def of_colors(self, images: jax.Array, indices: jax.Array, key: jax.Array) -> jax.Array:
        """Of images before they are normalised."""
        if not (self.color_jitter or self.lighting):
            return images
        strengths = self.color_jitter, self.lighting, self.white
        return change_colors(images.astype(jnp.float32), indices, key, *strengths)

    def of_place(self, images: jax.Array, indices: jax.Array, key: jax.Array) -> jax.Array:
        """Of normalised images."""
        how = self.crop_padding, self.flip, self.padding_mode
        return shift_and_flip(images, indices, key, *how)


def shift_and_flip(
    images: jax.Array,
    indices: jax.Array,
    key: jax.Array,
    padding: int,
    flip: bool,
    padding_mode: str = "zeros",
) -> jax.Array:
    """The authors' augmentation: flip half the images, then crop at random with a border.

    Images are normalised before, so a border of zeros has the mean colour.

    Args:
      images: `[N, H, W, C]`.
      indices: `[N]`, which examples these are.
      key: of this epoch.
      padding: width of the border; the crop has the size of the image.
      flip: whether to flip.
      padding_mode: "zeros", or "reflect": the image goes on mirrored, its edge not repeated.
    """
    mode = "constant" if padding_mode == "zeros" else padding_mode

    def one(image, index):
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
    """fb.resnet.torch's random brightness, contrast and saturation, and AlexNet's random light.

    The first three blend an image with black, with its mean grey, and with its own grey; the share
    of the image is drawn from 1 - jitter to 1 + jitter. Nothing is clipped, so their order, which
    is random there, makes no difference.

    Args:
      images: float `[N, H, W, 3]`, from 0 to `white`.
      indices: `[N]`, which examples these are.
      key: of this epoch.
      jitter: of the three, from 0 to 1.
      lighting: standard deviation of the factors of the principal components.
    """
    dtype = images.dtype

    def one(image, index):
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
