"""RandAugment against Pillow and timm, and as a function of seed, epoch and example."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats
from sklearn.datasets import load_sample_images

from densenet_jax.data.augmentation import Augmentation
from densenet_jax.data.operations import BLENDS, MOVES, OPERATIONS, apply
from densenet_jax.data.random_augment import CHANGES, amount, draw, random_augment

PIXELS = load_sample_images().images[0][100:140, 200:237]
PICTURE = Image.fromarray(PIXELS)
MEAN = (124, 116, 104)
LINEAR = {"resample": Image.Resampling.BILINEAR, "fillcolor": MEAN}


@functools.cache
def compiled():
    fill = jnp.array(MEAN, jnp.float32)
    return jax.jit(lambda image, kind, amount: apply(image, kind, amount, fill, smooth=True))


def ours(name: str, value: float) -> np.ndarray:
    return np.asarray(compiled()(PIXELS.astype(np.float32), OPERATIONS.index(name), value))


def moved(*coefficients: float) -> Image.Image:
    return PICTURE.transform(PICTURE.size, Image.Transform.AFFINE, coefficients, **LINEAR)


PILLOW = {
    "identity": (0, PICTURE, 0),
    "shear_x": (0.27, moved(1, 0.27, 0, 0, 1, 0), 1),
    "shear_y": (-0.27, moved(1, 0, 0, -0.27, 1, 0), 1),
    "translate_x": (14.98, moved(1, 0, -14.98, 0, 1, 0), 1),
    "translate_y": (-7.3, moved(1, 0, 0, 0, 1, 7.3), 1),
    "rotate": (math.radians(23.4), PICTURE.rotate(23.4, **LINEAR), 1),
    "brightness": (1.81, ImageEnhance.Brightness(PICTURE).enhance(1.81), 1),
    "color": (0.1, ImageEnhance.Color(PICTURE).enhance(0.1), 2),
    "contrast": (1.81, ImageEnhance.Contrast(PICTURE).enhance(1.81), 2),
    "sharpness": (0.19, ImageEnhance.Sharpness(PICTURE).enhance(0.19), 1),
    "posterize": (1, ImageOps.posterize(PICTURE, 1), 0),
    "solarize": (26, ImageOps.solarize(PICTURE, 26), 0),
    "solarize_add": (99, PICTURE.point(3 * [i + 99 * (i < 128) for i in range(256)]), 0),
    "invert": (0, ImageOps.invert(PICTURE), 0),
    "autocontrast": (0, ImageOps.autocontrast(PICTURE), 1),
    "equalize": (0, ImageOps.equalize(PICTURE), 0),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_those_of_pillow(name):
    value, expected, tolerance = PILLOW[name]
    found = ours(name, value)
    np.testing.assert_allclose(found, np.asarray(expected), atol=tolerance)
    assert name == "identity" or (found != PIXELS).mean() > 0.1


def test_images_become_black_without_bits():
    assert ours("posterize", 0).max() == 0


def amounts(strength: float, sign: int, shape: tuple[int, ...] = PIXELS.shape) -> dict[str, float]:
    kinds, sign = jnp.arange(len(OPERATIONS)), jnp.float32(sign)
    found = jax.vmap(lambda kind: amount(kind, jnp.float32(strength), sign, shape))(kinds)
    return dict(zip(OPERATIONS, np.asarray(found).tolist(), strict=True))


# Values of timm for an image of 40 x 37 pixels. Strengths of 9 and 10 differ where timm clips.
@pytest.mark.parametrize(
    ("strength", "sign", "expected"),
    [
        (0, 1, (0, 0, 0, 0, 0, 1, 4, 256, 0)),
        (9, 1, (27, 0.27, 0.27, 14.985, 16.2, 1.81, 1, 26, 99)),
        (9, -1, (-27, -0.27, -0.27, -14.985, -16.2, 0.19, 1, 26, 99)),
        (10, -1, (-30, -0.3, -0.3, -16.65, -18, 0.1, 0, 0, 110)),
    ],
)
def test_strengths_give_the_amounts_of_timm(strength, sign, expected):
    found = amounts(strength, sign)
    names = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y", "brightness")
    names += ("posterize", "solarize", "solarize_add")
    found["rotate"] = math.degrees(found["rotate"])
    assert [found[name] for name in names] == pytest.approx(expected)
    assert {found[name] for name in BLENDS} == {found["brightness"]}


TIMM = {
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
    "rotate": "Rotate",
    "brightness": "BrightnessIncreasing",
    "color": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "sharpness": "SharpnessIncreasing",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize_add": "SolarizeAdd",
    "invert": "Invert",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
}


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1, -1])
def test_images_are_those_of_timm(sign, monkeypatch):
    timm = pytest.importorskip("timm.data.auto_augment")
    policy = timm.rand_augment_transform("rand-m9-mstd0.5-inc1", {})
    assert policy.num_layers == 2 and policy.choice_weights is None
    assert {op.name for op in policy.ops} == set(TIMM.values()) and len(TIMM) == len(CHANGES)
    assert {(op.prob, op.magnitude, op.magnitude_std) for op in policy.ops} == {(0.5, 9, 0.5)}
    monkeypatch.setattr(timm, "_randomly_negate", lambda value: sign * value)
    facts = {"img_mean": MEAN, "interpolation": Image.Resampling.BILINEAR}
    for strength in (0, 0.4, 1.37, 2.5, 5, 6.66, 8.1, 9, 9.73, 10):
        found = amounts(strength, sign)
        for name, theirs in TIMM.items():
            if name == "posterize" and found[name] == 0:
                continue  # Pillow 13 refuses 0 bits. Earlier versions give a black image.
            expected = timm.AugmentOp(theirs, 1.0, strength, facts)(PICTURE)
            # timm shifts the place from which a pixel comes, not the pixel.
            value = -found[name] if name.startswith("translate") else found[name]
            tolerance = 2 if name in BLENDS else int(name in (*MOVES, "autocontrast"))
            np.testing.assert_allclose(
                ours(name, value),
                np.asarray(expected),
                atol=tolerance,
                err_msg=f"{name} {strength}",
            )


def drawn(count: int, strength: float) -> list[np.ndarray]:
    keys = jax.random.split(jax.random.key(0), count)
    return list(
        map(np.asarray, jax.jit(jax.vmap(functools.partial(draw, strength=strength)))(keys))
    )


def test_operations_and_signs_are_equally_frequent():
    kinds, _, signs = drawn(30_000, 9.0)
    counts = np.bincount(kinds, minlength=len(OPERATIONS))
    assert counts.size == len(OPERATIONS) == 16
    assert stats.binomtest(int(counts[0]), 30_000, 0.5).pvalue > 1e-4  # The identity.
    assert stats.chisquare(counts[1:]).pvalue > 1e-4
    assert stats.binomtest(int((signs == 1).sum()), 30_000, 0.5).pvalue > 1e-4
    assert set(signs) == {1, -1}


def test_strengths_are_normal_and_clipped():
    _, strengths, _ = drawn(30_000, 5.0)
    assert stats.kstest(strengths, stats.norm(5, 0.5).cdf).pvalue > 1e-4
    _, strengths, _ = drawn(30_000, 10.0)
    assert strengths.max() == 10 and (strengths == 10).mean() == pytest.approx(0.5, abs=0.02)
    _, strengths, _ = drawn(30_000, 0.1)
    assert strengths.min() == 0


@functools.cache
def of_colors():
    """Returns a compiled function of images, indices and key: RandAugment of a strength of 9."""
    changes = Augmentation(0, "zeros", False, 0.0, 0.0, 255.0, random=9.0, mean=MEAN)
    return jax.jit(changes.of_colors)


def test_a_change_is_a_function_of_the_example_and_the_epoch():
    images, indices = np.stack([PIXELS] * 64), np.arange(64)
    first = np.asarray(of_colors()(images, indices, jax.random.key(0)))
    assert first.dtype == np.float32 and first.min() >= 0 and first.max() <= 255
    again = np.asarray(of_colors()(images, indices[::-1], jax.random.key(0)))
    np.testing.assert_array_equal(again, first[::-1])
    later = np.asarray(of_colors()(images, indices + 32, jax.random.key(0)))
    np.testing.assert_array_equal(later[:32], first[32:])
    unchanged = (first == PIXELS).all((1, 2, 3))
    assert 5 < unchanged.sum() < 32  # A quarter, and weak changes.
    other = np.asarray(of_colors()(images, indices, jax.random.key(1)))
    assert (first == other)[~unchanged].all((1, 2, 3)).sum() < 5


def test_moves_uncover_the_mean_colour():
    images = np.full((64, *PIXELS.shape), 255, np.uint8)
    changed = np.asarray(of_colors()(images, np.arange(64), jax.random.key(0)))
    shows_mean = (changed == MEAN).all(-1).any((1, 2))
    assert 8 < shows_mean.sum() < 40


def test_the_scale_of_values_is_kept():
    """Digits have values from 0 to 16, and one channel."""
    images = np.repeat(PIXELS[None, :8, :8, :1] // 16, 64, 0)
    change = functools.partial(random_augment, strength=9.0, mean=(5.0,), white=16)
    found = np.asarray(jax.jit(change)(images, jnp.arange(64), jax.random.key(0)))
    assert found.shape == images.shape
    assert found.min() >= 0 and 8 < found.max() <= 16 + 1e-5
    np.testing.assert_allclose(found * 255 / 16, np.round(found * 255 / 16), atol=1e-3)
