"""TrivialAugment against Pillow and torchvision, and as a function of seed, epoch and example."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from densenet_jax.data.trivial_augment import (
    BLENDS,
    CHANGES,
    STRENGTHS,
    changed,
    trivial_augment,
)

PIXELS = load_sample_images().images[0][100:140, 200:237]
PICTURE = Image.fromarray(PIXELS)


@functools.cache
def compiled():
    return jax.jit(changed)


def ours(name: str, strength: int, sign: int = 1, pixels: np.ndarray = PIXELS) -> np.ndarray:
    image = jnp.asarray(pixels, jnp.float32)
    return np.asarray(compiled()(image, CHANGES.index(name), strength, float(sign)))


def moved(*coefficients: float) -> Image.Image:
    return PICTURE.transform(PICTURE.size, Image.Transform.AFFINE, coefficients)


PILLOW = {
    "identity": (3, PICTURE, 0),
    "shear_x": (10, moved(1, 0.33, 0, 0, 1, 0), 0),
    "shear_y": (10, moved(1, 0, 0, 0.33, 1, 0), 0),
    "translate_x": (8, moved(1, 0, -8, 0, 1, 0), 0),
    "translate_y": (15, moved(1, 0, 0, 0, 1, -16), 0),
    "rotate": (9, PICTURE.rotate(40.5), 0),
    "brightness": (20, ImageEnhance.Brightness(PICTURE).enhance(1.66), 1),
    "color": (20, ImageEnhance.Color(PICTURE).enhance(1.66), 2),
    "contrast": (20, ImageEnhance.Contrast(PICTURE).enhance(1.66), 2),
    "sharpness": (20, ImageEnhance.Sharpness(PICTURE).enhance(1.66), 1),
    "posterize": (15, ImageOps.posterize(PICTURE, 5), 0),
    "solarize": (10, ImageOps.solarize(PICTURE, 170), 0),
    "autocontrast": (0, ImageOps.autocontrast(PICTURE), 1),
    "equalize": (0, ImageOps.equalize(PICTURE), 0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_those_of_pillow(name):
    strength, expected, tolerance = PILLOW[name]
    np.testing.assert_allclose(ours(name, strength), np.asarray(expected), atol=tolerance)
    assert name == "identity" or (ours(name, 30) != PIXELS).mean() > 0.1


def test_changes_are_those_of_torchvision():
    torch, transforms = pytest.importorskip("torch"), pytest.importorskip("torchvision.transforms")
    from torchvision.transforms.autoaugment import _apply_op

    theirs = transforms.TrivialAugmentWide()._augmentation_space(STRENGTHS)
    picture = torch.tensor(PIXELS).permute(2, 0, 1)
    nearest = transforms.InterpolationMode("nearest")
    for name, (their_name, (strengths, is_signed)) in zip(CHANGES, theirs.items(), strict=True):
        for strength in range(STRENGTHS):
            # torchvision moves by 15.999999 pixels, and a quarter turn reads between positions.
            if (strength, name) in ((15, "translate_x"), (15, "translate_y"), (20, "rotate")):
                continue
            for sign in (1, -1) if is_signed else (1,):
                value = sign * float(strengths[strength]) if strengths.ndim else 0.0
                expected = _apply_op(picture, their_name, value, nearest, None).permute(1, 2, 0)
                found = ours(name, strength, sign)
                tolerance = 1 if name in BLENDS else 0
                np.testing.assert_allclose(found, expected, atol=tolerance, err_msg=name)


def test_grey_images_stay_grey():
    grey = PIXELS[..., :1]
    assert np.array_equal(ours("color", 20, pixels=grey), grey)
    for name in CHANGES:
        assert ours(name, 20, pixels=grey).shape == grey.shape


def test_a_change_is_a_function_of_the_example_and_the_epoch():
    images, indices = jnp.asarray(np.stack([PIXELS] * 64)), jnp.arange(64)
    change = jax.jit(functools.partial(trivial_augment, white=255.0))
    first = change(images, indices, jax.random.key(0))
    assert first.dtype == jnp.float32 and first.min() >= 0 and first.max() <= 255
    np.testing.assert_array_equal(change(images, indices[::-1], jax.random.key(0)), first[::-1])
    other = change(images, indices, jax.random.key(1))
    same = [np.array_equal(a, b) for a, b in zip(first, other, strict=True)]
    assert sum(same) < 8
    # An identity, and weak changes, are 1 in 10 or so.
    unchanged = [np.array_equal(image, PIXELS) for image in first]
    assert 1 <= sum(unchanged) < 20


def test_the_scale_of_values_is_kept():
    """Digits have values from 0 to 16."""
    key, image = jax.random.key(0), PIXELS[None, :8, :8, :1] // 16
    images = jnp.asarray(np.repeat(image, 40, 0))
    found = jax.jit(functools.partial(trivial_augment, white=16))(images, jnp.arange(40), key)
    assert found.min() >= 0 and 8 < found.max() <= 16 + 1e-5
