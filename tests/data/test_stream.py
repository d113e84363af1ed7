"""Tests that a stream does not depend on workers or hosts, and how it treats broken pictures."""

import gc
import logging
import pickle
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import small
import small_imagenet
from cases import slow_except

from densenet_jax.data import imagenet, stream
from densenet_jax.data.batches import PADDING, epoch_order
from densenet_jax.data.encoded import Range
from densenet_jax.data.pictures import CentralCrop, decode
from densenet_jax.data.random_crop import random_crop
from densenet_jax.errors import InputError

SIZE, BATCH, SEED = 16, 5, 3
STEPS = 5  # In an epoch of 24 pictures.


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("imagenet")
    small_imagenet.write_directories(
        directory, small_imagenet.train_pictures(), small_imagenet.validation_pictures()
    )
    return directory


@pytest.fixture(scope="module")
def pictures(directory):
    return imagenet.find(directory)["train"]


def source_of(pictures, first=0, epochs=2, rows=None):
    order = stream.Epochs(SEED, len(pictures), BATCH, False, STEPS)
    rows = np.arange(BATCH) if rows is None else np.asarray(rows)
    crop, shape = stream.RandomCrop(SIZE, SEED), (SIZE, SIZE, 3)
    return stream.Source(pictures, crop, order, rows, shape, first, epochs * STEPS)


def read(source, workers=0, skip_broken=False):
    """Returns all batches of `source`, through a stream."""
    # joblib, which scikit-learn imports, leaves semaphores to the garbage collector. Python 3.12.1
    # warns if the garbage collector removes them while a process starts.
    gc.collect()
    reading = stream.Stream(source, lambda batch: batch, workers, skip_broken)
    try:
        return [reading.get() for _ in range(len(source))]
    finally:
        reading.close()


def assert_same(batches, expected):
    for batch, other in zip(batches, expected, strict=True):
        for found, value in zip(batch, other, strict=True):
            np.testing.assert_array_equal(found, value)


@pytest.fixture(scope="module")
def whole(pictures):
    return read(source_of(pictures))


def test_each_epoch_has_every_picture_once_in_a_different_order(pictures, whole):
    for epoch in range(2):
        batches = whole[epoch * STEPS : (epoch + 1) * STEPS]
        order = epoch_order(SEED, epoch, len(pictures), BATCH)
        np.testing.assert_array_equal([batch.indices for batch in batches], order)
        assert order[-1, -1] == PADDING and (batches[-1].images[-1] == 0).all()
        for batch in batches:
            for image, label, index in zip(*batch[:3], strict=True):
                if index != PADDING:
                    encoded, random = (
                        pictures[index],
                        np.random.default_rng([SEED, epoch, index, 1]),
                    )
                    np.testing.assert_array_equal(image, random_crop(encoded.data, SIZE, random))
                    assert label == encoded.label
    assert not np.array_equal(whole[0].indices, whole[STEPS].indices)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(pictures, whole, workers):
    assert_same(read(source_of(pictures), workers), whole)


@pytest.mark.parametrize(
    ("step", "workers"), slow_except([(4, 0)], [(1, 0), (4, 0), (7, 2), (9, 0)])
)
def test_a_stream_can_start_at_any_step(pictures, whole, step, workers):
    assert_same(read(source_of(pictures, first=step), workers), whole[step:])


def test_hosts_read_their_parts_of_the_same_batches(pictures, whole):
    hosts = [read(source_of(pictures, rows=rows)) for rows in ([0, 1, 2], [3, 4])]
    joined = [map(np.concatenate, zip(*parts, strict=True)) for parts in zip(*hosts, strict=True)]
    assert_same(joined, whole)


@pytest.mark.parametrize("ten", [False, True])
def test_evaluation_has_the_central_crop_of_every_picture_once(pictures, ten):
    crop = CentralCrop(20, SIZE, "bicubic")
    shape = (10,) * ten + (SIZE, SIZE, 3)
    rows, order = np.arange(7), stream.OnePass(len(pictures), 7)
    source = stream.Source(pictures, stream.Middle(crop, ten), order, rows, shape, 0, 4)
    batches = read(source)
    indices = np.concatenate([batch.indices for batch in batches])
    assert indices.tolist() == [*range(24), *[PADDING] * 4]
    images = np.concatenate([batch.images for batch in batches])
    for i in range(24):
        picture = decode(pictures[i].data)
        np.testing.assert_array_equal(images[i], (crop.ten if ten else crop)(picture))


@pytest.fixture
def broken_directory(directory, tmp_path):
    """Copies the set, truncates one picture, and removes another after listing."""
    copy = shutil.copytree(directory, tmp_path / "imagenet")
    found = imagenet.find(copy)["train"]
    short, missing = sorted((copy / "train").glob("*/*_1000.JPEG"))[:2]
    short.write_bytes(short.read_bytes()[:3000])
    missing.unlink()
    return found, short, missing


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_broken_picture_is_an_error(broken_directory, workers):
    found, short, missing = broken_directory
    with pytest.raises(InputError, match=r"(damaged|cannot read).*data\.skip_broken") as caught:
        read(source_of(found), workers)
    assert any(str(path) in str(caught.value) for path in (short, missing))


def test_skip_broken_skips_broken_pictures(broken_directory, whole, caplog):
    found, short, missing = broken_directory
    with caplog.at_level(logging.WARNING):
        batches = read(source_of(found, epochs=1), skip_broken=True)
    assert [str(path) in caplog.text for path in (short, missing)] == [True, True]
    lost = 0
    for batch, expected in zip(batches, whole[:STEPS], strict=True):
        gone = batch.indices != expected.indices
        assert (batch.indices[gone] == PADDING).all()
        np.testing.assert_array_equal(batch.images[~gone], expected.images[~gone])
        lost += gone.sum()
    assert lost == 2


def test_reading_is_retried_once(pictures, whole):
    class Once:
        """Pictures that fail the first time they are read."""

        def __init__(self):
            self.asked = set()

        def __len__(self):
            return len(pictures)

        def __getitem__(self, index):
            if index not in self.asked:
                self.asked.add(index)
                raise OSError("stale file handle")
            return pictures[index]

        def name(self, index):
            return pictures.name(index)

    batches = read(source_of(Once(), epochs=1))
    for batch, expected in zip(batches, whole[:STEPS], strict=True):
        assert_same([batch[:3]], [expected[:3]])


def test_waited_counts_only_waiting_for_data(pictures):
    """Waiting for the devices comes first, and does not count."""
    placed = threading.Event()
    reading = stream.Stream(source_of(pictures), lambda batch: placed.set())
    try:
        reading.get(finish=lambda: placed.wait() and time.sleep(0.5))
        assert reading.waited < 0.5
    finally:
        reading.close()
    reading = stream.Stream(source_of(pictures), lambda batch: time.sleep(0.5))
    try:
        reading.get()
        assert reading.waited > 0.4
    finally:
        reading.close()


def test_a_range_is_a_part_of_the_pictures(pictures):
    part = Range(pictures, 3, 9)
    assert len(part) == 6 and part[2] == pictures[5] and part.name(0) == pictures.name(3)


# Prints the ids of the worker processes, and waits to be killed.
READERS = """
import multiprocessing, pickle, sys, time
from densenet_jax.data import stream

if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        made = stream.host_batches(pickle.load(file), 2)
    next(made)
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_workers_exit_when_the_trainer_is_killed(pictures, tmp_path):
    (tmp_path / "readers.py").write_text(READERS)
    (tmp_path / "source").write_bytes(pickle.dumps(source_of(pictures, epochs=2000)))
    with small.start(tmp_path / "readers.py", tmp_path / "source") as process:
        workers = [Path(f"/proc/{pid}") for pid in process.stdout.readline().split()]
        alive = [worker.exists() for worker in workers]
        process.kill()
    assert alive == [True, True]
    deadline = time.monotonic() + 60
    while any(worker.exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)
