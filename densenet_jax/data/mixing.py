"""Mixup, cutmix and random erasing of normalised batches, inside jit.

Each image has its own random numbers, a function of (seed, epoch, example). Its partner is the
image beside it in the batch, which the shuffled order of the epoch chooses. So partners are on one
device, unless its number of images is odd, and the result is the same on any number of devices.
"""

import jax
import jax.numpy as jnp

from densenet_jax.data.batches import Batch, Partners

# timm's limits of an erased box: its share of the image's area, and its ratio of sides.
AREA = 0.02, 1 / 3
ASPECT = 0.3, 1 / 0.3
_TRIES = 10


def mix(batch: Batch, indices: jax.Array, key: jax.Array, mixup: float, cutmix: float) -> Batch:
    """Mixes each image with its partner, and notes the partner's label and the image's share.

    With mixup (Zhang et al., ICLR 2018) an image is a weighted mean; with cutmix (Yun et al., ICCV
    2019) a box of it comes from its partner. The share is drawn from Beta(a, a); that of a cut
    image is then the share of its remaining pixels. An image without partner stays as it is: the
    last one of an odd batch, or one beside padding.

    Args:
      batch: images `[N, H, W, C]` of any floating type.
      indices: `[N]`, indices of the examples.
      key: the key of this epoch.
      mixup, cutmix: the number a of each; 0: not used. If both are used, one of them is chosen at
        random for each image, as in timm.
    """
    images = batch.images
    height, width = images.shape[1:3]
    dtype = jnp.promote_types(images.dtype, jnp.float32)

    def draw(index: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns an image's share, and its weight in each pixel, `[H, W, 1]`."""
        choice_key, share_key, box_key = jax.random.split(jax.random.fold_in(key, index), 3)
        cuts = jax.random.bernoulli(choice_key) if mixup and cutmix else jnp.bool_(cutmix > 0)
        alpha = jnp.where(cuts, cutmix, mixup)
        share = jax.random.beta(share_key, alpha, alpha, dtype=dtype)
        # As the authors of cutmix do, the box is cut off at the border, around a uniform centre.
        half_sides = (jnp.sqrt(1 - share) * jnp.array([height, width])).astype(int) // 2
        center = jax.random.randint(box_key, (2,), 0, jnp.array([height, width]))
        low, high = center - half_sides, center + half_sides
        kept = ~_inside(height, width, low, high)
        weights = jnp.where(cuts, kept.astype(dtype), share)
        return jnp.where(cuts, kept.mean(dtype=dtype), share), weights

    share, weights = jax.vmap(draw)(indices)
    has_partner = _partners(batch.mask) > 0
    if len(indices) % 2:
        has_partner = has_partner.at[-1].set(False)
    share = jnp.where(has_partner, share, 1)
    weights = jnp.where(has_partner[:, None, None, None], weights, 1)
    mixed = weights * images + (1 - weights) * _partners(images)
    partners = Partners(_partners(batch.labels), share)
    return batch._replace(images=mixed.astype(images.dtype), partners=partners)


def erase(images: jax.Array, indices: jax.Array, key: jax.Array, probability: float) -> jax.Array:
    """Fills a random box of some normalised images with normal noise (Zhong et al., AAAI 2020).

    Area and ratio of sides of the box are those of timm, as is the noise in each pixel. The first
    of ten boxes that fits is used; an image for which none fits is left.

    Args:
      images: `[N, H, W, C]`.
      indices: `[N]`, indices of the examples.
      key: the key of this epoch.
      probability: the share of images that get a box.
    """
    height, width = images.shape[1:3]

    def one(image: jax.Array, index: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.fold_in(key, index), 5)
        area = (
            height * width * jax.random.uniform(keys[0], (_TRIES,), minval=AREA[0], maxval=AREA[1])
        )
        aspect = jnp.exp(
            jax.random.uniform(
                keys[1], (_TRIES,), minval=jnp.log(ASPECT[0]), maxval=jnp.log(ASPECT[1])
            )
        )
        sides = jnp.round(jnp.sqrt(area * jnp.stack([aspect, 1 / aspect]))).astype(int)
        fits = (sides < jnp.array([[height], [width]])).all(0)
        chosen = sides[:, fits.argmax()]
        low = jax.random.randint(keys[2], (2,), 0, jnp.array([height, width]) - chosen + 1)
        erased = fits.any() & jax.random.bernoulli(keys[3], probability)
        box = erased & _inside(height, width, low, low + chosen)
        return jnp.where(box, jax.random.normal(keys[4], image.shape, image.dtype), image)

    return jax.vmap(one)(images, indices)


def _inside(height: int, width: int, low: jax.Array, high: jax.Array) -> jax.Array:
    """Returns for each pixel, `[H, W, 1]`, whether it is in the box from `low` to before `high`."""
    row, column = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
    return (low[0] <= row) & (row < high[0]) & (low[1] <= column) & (column < high[1])


def _partners(values: jax.Array) -> jax.Array:
    """Exchanges rows 0 and 1, 2 and 3, and so on; a last odd row stays."""
    pairs = len(values) // 2
    swapped = values[: 2 * pairs].reshape(pairs, 2, *values.shape[1:])[:, ::-1]
    swapped = swapped.reshape(2 * pairs, *values.shape[1:])
    return swapped if len(values) == 2 * pairs else jnp.concatenate([swapped, values[-1:]])
