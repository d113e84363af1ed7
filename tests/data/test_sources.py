"""Tests that a set is the same in all its published forms."""

import hashlib
import pathlib
import pickle

import numpy as np
import published_sets
import pytest
from published_sets import assert_same
from sklearn.datasets import load_digits

from densenet_jax.data import sources
from densenet_jax.errors import InputError

ARCHIVES = {
    ("cifar10", "binary"): ("cifar-10-binary.tar.gz", "cifar-10-batches-bin"),
    ("cifar10", "python"): ("cifar-10-python.tar.gz", "cifar-10-batches-py"),
    ("cifar100", "binary"): ("cifar-100-binary.tar.gz", "cifar-100-binary"),
    ("cifar100", "python"): ("cifar-100-python.tar.gz", "cifar-100-python"),
}
DEBIAN = pathlib.Path("/usr/share/datasets/fashion-mnist")


def test_digits():
    digits = sources.load("digits")
    assert digits.train.images.shape == (1437, 8, 8, 1)
    assert digits.test.images.shape == (360, 8, 8, 1)
    assert digits.train.images.dtype == np.uint8 and digits.train.images.max() == 16
    assert digits.validation is None and digits.num_classes == 10
    np.testing.assert_allclose(digits.mean, digits.train.images.mean(), atol=0.005)
    np.testing.assert_allclose(digits.std, digits.train.images.std(), atol=0.005)
    # Every fifth image is a test image.
    published = load_digits()
    assert np.array_equal(digits.test.images[..., 0], published.images[::5])
    assert np.array_equal(digits.test.labels, published.target[::5])


def test_synthetic_is_fixed_and_learnable():
    train, test = sources.load("synthetic").train, sources.load("synthetic").test
    assert train.images.shape == (512, 32, 32, 3) and test.images.shape == (128, 32, 32, 3)
    synthetic = sources.load("synthetic")
    np.testing.assert_allclose(synthetic.mean, train.images.mean((0, 1, 2)), atol=0.06)
    np.testing.assert_allclose(synthetic.std, train.images.std((0, 1, 2)), atol=0.06)
    digest = hashlib.sha256(train.images.tobytes() + test.labels.tobytes()).hexdigest()
    assert digest.startswith("0c215763df2651356a27")
    centres = np.stack([train.images[train.labels == label].mean(0) for label in range(10)])
    distances = ((test.images[:, None] - centres) ** 2).mean((2, 3, 4))
    assert np.mean(distances.argmin(1) == test.labels) > 0.9


@pytest.mark.parametrize("holdout, examples", [(0, 513), (600, 500)])
def test_synthetic_grows_with_holdout_and_examples(holdout, examples, caplog):
    usual, grown = sources.load("synthetic"), sources.load("synthetic", None, holdout, examples)
    assert len(grown.train) == examples
    assert len(grown.validation.labels if holdout else ()) == holdout
    same = min(512, examples)
    assert_same(_first(grown.train, same), *_arrays(_first(usual.train, same)))
    assert_same(grown.test, *_arrays(usual.test))
    assert grown.official and not caplog.messages  # No warning, because the set is computed.


def _first(split, count):
    return sources.Split(split.images[:count], split.labels[:count])


def _arrays(split):
    return split.images, split.labels


def test_holdout_is_the_last_training_images():
    whole, held = sources.load("digits"), sources.load("digits", holdout=100)
    assert_same(held.train, whole.train.images[:-100], whole.train.labels[:-100])
    assert_same(held.validation, whole.train.images[-100:], whole.train.labels[-100:])
    assert_same(held.test, whole.test.images, whole.test.labels)


@pytest.mark.parametrize("holdout, message", [(-1, "0 or more"), (1437, "1,437 of 1,437 training")])
def test_impossible_holdout(holdout, message):
    with pytest.raises(InputError, match=message):
        sources.load("digits", holdout=holdout)


def test_fewer_examples():
    whole, some = (
        sources.load("digits", holdout=100),
        sources.load("digits", holdout=100, examples=50),
    )
    assert_same(some.train, whole.train.images[:50], whole.train.labels[:50])
    assert_same(some.validation, whole.validation.images, whole.validation.labels)
    for examples in (-1, 1338):
        with pytest.raises(
            InputError, match=f"data.examples is {examples}, but .* 1,337 images: use 0"
        ):
            sources.load("digits", holdout=100, examples=examples)


def test_unknown_name():
    with pytest.raises(InputError, match="did you mean 'cifar100'"):
        sources.load("cifar-100")
    with pytest.raises(InputError, match="choose one of cifar10, cifar100, svhn"):
        sources.load("moon")


@pytest.mark.parametrize("layout", ["archive", "unpacked", "files"])
@pytest.mark.parametrize("name, form", ARCHIVES)
def test_cifar(tmp_path, caplog, name, form, layout):
    num_classes = 10 if name == "cifar10" else 100
    parts = published_sets.make_parts({"train": 203, "test": 101}, num_classes=num_classes)
    archive, unpacked = ARCHIVES[name, form]
    files = published_sets.cifar_files(name, form, parts)
    if layout == "archive":
        published_sets.write_archive(tmp_path / archive, unpacked, files)
    else:
        published_sets.write_directory(tmp_path / unpacked, files)
    cifar = sources.load(name, str(tmp_path / unpacked if layout == "files" else tmp_path))
    assert_same(cifar.train, *parts["train"])
    assert_same(cifar.test, *parts["test"])
    assert cifar.num_classes == num_classes
    assert (
        f"{name} is not the official set: it has 203 train images, 101 test images " in caplog.text
    )


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_cifar_pickled_again_by_python_3(tmp_path, protocol):
    images, labels = published_sets.make_parts({"train": 7}, num_classes=100)["train"]
    rows = images.transpose(0, 3, 1, 2).reshape(7, 3072)
    batch = published_sets.cifar_batch("cifar100", np.ascontiguousarray(rows), labels)
    batch = {key.encode(): value for key, value in batch.items()}
    published_sets.write_cifar100(tmp_path, pickle.dumps(batch, protocol))
    assert_same(sources.load("cifar100", str(tmp_path)).train, images, labels)


@pytest.mark.parametrize("zipped", [True, False])
def test_fashion_mnist(tmp_path, zipped):
    parts = published_sets.make_parts({"train": 50, "test": 20}, (28, 28, 1))
    published_sets.write_fashion_mnist(tmp_path, parts, zipped)
    fashion_mnist = sources.load("fashion_mnist", str(tmp_path), holdout=10)
    assert_same(fashion_mnist.train, parts["train"][0][:40], parts["train"][1][:40])
    assert_same(fashion_mnist.validation, parts["train"][0][40:], parts["train"][1][40:])
    assert_same(fashion_mnist.test, *parts["test"])


@pytest.fixture
def svhn(tmp_path):
    """Writes a small SVHN to `tmp_path`, in which all images differ."""
    parts = published_sets.make_parts({"train": 200, "extra": 300, "test": 40})
    published_sets.write_svhn(tmp_path, parts)
    return parts


def test_svhn(tmp_path, svhn):
    whole = sources.load("svhn", str(tmp_path))
    for i in (0, 1):  # Images, labels.
        np.testing.assert_array_equal(
            (whole.train.images, whole.train.labels)[i],
            np.concatenate([svhn["train"][i], svhn["extra"][i]]),
        )
    assert_same(whole.test, *svhn["test"])
    assert whole.validation is None
    assert whole.mean == (0, 0, 0) and whole.std == (255, 255, 255)


def test_svhn_holdout(tmp_path, svhn):
    held = sources.load("svhn", str(tmp_path), holdout=60)
    train, validation = held.train, held.validation
    assert len(train.labels) == 440 and len(validation.labels) == 60
    from_train, from_extra = validation.labels[:40], validation.labels[40:]
    assert np.all(np.bincount(from_train) == 4) and np.all(np.bincount(from_extra) == 2)

    # Every image is in exactly one of the two splits, in the order of the files, with its label.
    images, labels = (np.concatenate([svhn["train"][i], svhn["extra"][i]]) for i in (0, 1))
    places = {image.tobytes(): place for place, image in enumerate(images)}
    trained, validated = (
        [places[image.tobytes()] for image in split.images] for split in (train, validation)
    )
    assert sorted(trained + validated) == list(range(500))
    assert trained == sorted(trained) and validated == sorted(validated)
    assert all(place < 200 for place in validated[:40])
    np.testing.assert_array_equal(train.labels, labels[trained])
    np.testing.assert_array_equal(validation.labels, labels[validated])

    # The random choice never changes.
    assert validated[:5] == [3, 8, 12, 13, 18]
    assert_same(sources.load("svhn", str(tmp_path), holdout=60).train, train.images, train.labels)


@pytest.mark.parametrize(
    "holdout, message",
    [
        (31, "0 or more and, for svhn, divisible by 30"),
        (300, "cannot hold out 20 of 20 images of class 0 in svhn's 'train' part"),
    ],
)
def test_impossible_svhn_holdout(tmp_path, svhn, holdout, message):
    with pytest.raises(InputError, match=message):
        sources.load("svhn", str(tmp_path), holdout)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist(caplog):
    fashion_mnist = sources.load("fashion_mnist")
    assert fashion_mnist.train.images.shape == (60_000, 28, 28, 1)
    assert fashion_mnist.test.images.shape == (10_000, 28, 28, 1)
    assert np.all(np.bincount(fashion_mnist.train.labels) == 6_000)
    assert fashion_mnist.train.labels[:5].tolist() == [9, 0, 0, 3, 0]
    np.testing.assert_allclose(fashion_mnist.mean, fashion_mnist.train.images.mean(), atol=0.05)
    np.testing.assert_allclose(fashion_mnist.std, fashion_mnist.train.images.std(), atol=0.05)
    assert caplog.text == ""  # No warning, because it is the official set.
