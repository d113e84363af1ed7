"""Folds and held-out images have the same share of each class."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from densenet_jax.data import partition, sources
from densenet_jax.data.encoded import Pieces, Range, Unread
from densenet_jax.errors import InputError

LABELS = st.lists(st.integers(0, 6), min_size=2, max_size=80).map(np.array)


@given(labels=LABELS, data=st.data())
def test_folds_spread_every_class_evenly(labels, data):
    folds = data.draw(st.integers(2, len(labels)))
    found = partition.assign(labels, folds)
    counts = np.array([np.bincount(found[labels == c], minlength=folds) for c in set(labels)])
    assert np.ptp(counts, axis=1).max() <= 1 and np.ptp(counts.sum(0)) <= 1
    assert counts.shape[1] == folds and counts.sum() == len(labels)
    assert np.array_equal(found, partition.assign(labels, folds))


@given(labels=LABELS, data=st.data())
def test_the_parts_of_all_folds_make_up_the_set(labels, data):
    folds = data.draw(st.integers(2, len(labels)))
    whole = sources.Split(np.arange(len(labels)), labels)
    held = []
    for fold in range(folds):
        train, validation = partition.divide(whole, folds, fold)
        assert sorted([*train.images, *validation.images]) == list(range(len(labels)))
        for part in (train, validation):
            assert np.array_equal(part.labels, labels[part.images])
            assert np.array_equal(part.images, np.sort(part.images))
        held += list(validation.images)
    assert sorted(held) == list(range(len(labels)))


@given(labels=LABELS, data=st.data())
def test_held_out_images_have_the_share_of_each_class(labels, data):
    holdout = data.draw(st.integers(1, len(labels) - 1))
    train, validation = partition.hold_out(sources.Split(np.arange(len(labels)), labels), holdout)
    assert len(validation) == holdout
    assert sorted([*train.images, *validation.images]) == list(range(len(labels)))
    for c in set(labels):
        share = holdout * np.mean(labels == c)
        assert abs(np.sum(validation.labels == c) - share) < 1 + 1e-9


def test_the_division_never_changes():
    """A change of this rule would make folds of old and new runs overlap."""
    assert partition.assign(np.arange(12) % 3, 4).tolist() == [3, 2, 1, 2, 0, 3, 0, 3, 2, 1, 1, 0]


def test_folds_of_digits():
    whole = sources.load("digits")
    divided = [sources.load("digits", folds=5, fold=fold) for fold in range(5)]
    assert sorted(len(found.validation) for found in divided) == [287, 287, 287, 288, 288]
    assert all(len(found.train) + len(found.validation) == 1437 for found in divided)
    images = np.concatenate([found.validation.images for found in divided])
    assert sorted(map(bytes, images)) == sorted(map(bytes, whole.train.images))
    assert all(np.array_equal(found.test.images, whole.test.images) for found in divided)


def test_folds_divide_the_examples_that_are_used():
    divided = sources.load("digits", examples=50, folds=5, fold=4)
    assert (len(divided.train), len(divided.validation)) == (40, 10)
    used = set(map(bytes, sources.load("digits").train.images[:50]))
    assert {*map(bytes, divided.train.images), *map(bytes, divided.validation.images)} == used


def test_stratified_holdout_of_digits():
    held = sources.load("digits", holdout=100, stratified=True)
    assert (len(held.train), len(held.validation)) == (1337, 100)
    shares = 100 / 1437 * np.bincount(sources.load("digits").train.labels)
    assert np.abs(np.bincount(held.validation.labels) - shares).max() < 1
    with pytest.raises(InputError, match="cannot hold out 1,437 of 1,437 training images"):
        sources.load("digits", holdout=1437, stratified=True)


def listed(directory, labels):
    names = [f"{i}.png" for i in range(len(labels))]
    for name in names:
        (directory / name).write_bytes(name.encode())
    return Pieces(directory, names, names, np.array(labels))


def test_folds_of_listed_pictures(tmp_path):
    pictures = Range(listed(tmp_path, [0, 1, 2, 2, 0, 1, 0, 1, 2, 2]), 1, 10)
    held = []
    for fold in range(3):
        train, validation = partition.divide(pictures, 3, fold)
        assert sorted(validation.labels) == [0, 1, 2] or len(validation) == 3
        for part in (train, validation):
            assert [part[i].label for i in range(len(part))] == part.labels.tolist()
            assert all(part.name(i).endswith(part[i].file_name) for i in range(len(part)))
        read = [part[i].data for part in (train, validation) for i in range(len(part))]
        assert sorted(read) == [f"{i}.png".encode() for i in range(1, 10)]
        held += [validation[i].file_name for i in range(len(validation))]
    assert sorted(held) == [f"{i}.png" for i in range(1, 10)]


def test_classes_with_few_images_are_named(caplog):
    rare = sources.Split(np.arange(8), np.array([0, 0, 0, 0, 0, 1, 1, 2]))
    partition.divide(rare, 3, 0, ("cat", "dog", "eel"))
    assert "2 classes have fewer than 3 training images" in caplog.text
    assert caplog.text.strip().endswith("dog, eel")
    caplog.clear()
    partition.divide(rare, 2, 0)
    assert "1 class has fewer than 2" in caplog.text and "class 2" in caplog.text
    caplog.clear()
    sources.load("digits", folds=5)
    assert not caplog.messages


def test_impossible_folds():
    with pytest.raises(InputError, match=r"data\.folds is 51, but .* 50 images: use 2 to 50"):
        sources.load("digits", examples=50, folds=51)
    for divide in (
        lambda: partition.divide(Unread(9), 3, 0),
        lambda: partition.hold_out(Unread(9), 3),
    ):
        with pytest.raises(InputError, match="needs the label of every picture, which a copy"):
            divide()


def test_combinations_of_several_labels_are_spread_evenly():
    labels = np.array([[0, 1], [1, 0], [1, 1]])[np.arange(30) % 3]
    whole = sources.Split(np.arange(30), labels)
    for fold in range(5):
        _, validation = partition.divide(whole, 5, fold)
        combinations, counts = np.unique(validation.labels, axis=0, return_counts=True)
        assert len(combinations) == 3 and counts.tolist() == [2, 2, 2]
