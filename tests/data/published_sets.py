"""Writes small image sets in exactly the formats of the official files.

A set is a dict {part: (images uint8 `[N, H, W, C]`, labels `[N]`)}.
"""

import gzip
import io
import json
import pathlib
import pickle
import struct
import tarfile

import numpy as np
import pytest
import scipy.io
from PIL import Image

from densenet_jax.data import sources
from densenet_jax.errors import InputError

CIFAR10_BATCHES = [f"data_batch_{i}" for i in range(1, 6)]


def make_parts(sizes, shape=(32, 32, 3), num_classes=10, seed=0):
    random = np.random.RandomState(seed)  # Unlike Generator's, its numbers never change.
    return {
        part: (
            random.randint(0, 256, (size, *shape), dtype=np.uint8),
            random.permutation(np.arange(size) % num_classes),
        )
        for part, size in sizes.items()
    }


def write_fashion_mnist(directory, parts, zipped=True):
    directory.mkdir(parents=True, exist_ok=True)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = parts[part]
        for kind, array in (("images-idx3", images[..., 0]), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            data = header + array.astype(np.uint8).tobytes()
            if zipped:
                (directory / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(data))
            else:
                (directory / f"{prefix}-{kind}-ubyte").write_bytes(data)


def write_svhn(directory, parts):
    directory.mkdir(parents=True, exist_ok=True)
    for part, (images, labels) in parts.items():
        digits = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        content = {"X": np.moveaxis(images, 0, -1), "y": digits}
        scipy.io.savemat(directory / f"{part}_32x32.mat", content, do_compression=True)


def cifar_files(name, form, parts):
    """Returns file names and contents, with the training images of CIFAR-10 in five batches."""
    files = {}
    for part, (images, labels) in parts.items():
        if name == "cifar10":
            names = CIFAR10_BATCHES if part == "train" else ["test_batch"]
        else:
            names = [part]
        for file_name, some_images, some_labels in zip(
            names,
            np.array_split(images, len(names)),
            np.array_split(labels, len(names)),
            strict=True,
        ):
            rows = some_images.transpose(0, 3, 1, 2).reshape(len(some_images), 3072)
            if form == "binary":
                columns = [some_labels[:, None].astype(np.uint8), rows]
                if name == "cifar100":
                    columns.insert(0, columns[0] // 5)  # The coarse label.
                files[f"{file_name}.bin"] = np.hstack(columns).tobytes()
            else:
                files[file_name] = python2_pickle(cifar_batch(name, rows, some_labels))
    return files


def cifar_batch(name, rows, labels):
    """Returns the dict that the Python form pickles."""
    batch = {"batch_label": "training batch", "data": rows}
    if name == "cifar10":
        batch["labels"] = labels.tolist()
    else:
        batch["coarse_labels"] = (labels // 5).tolist()
        batch["fine_labels"] = labels.tolist()
    batch["filenames"] = [f"image_{i}.png" for i in range(len(labels))]
    return batch


def write_archive(path, directory, files):
    """Writes a .tar.gz archive whose members are not sorted, as in the official archives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, data in reversed(files.items()):
            member = tarfile.TarInfo(f"{directory}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def write_directory(directory, files):
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)


def write_cifar10(directory, **changes):
    """Writes a small unpacked binary CIFAR-10 with some files changed."""
    parts = make_parts({"train": 20, "test": 10})
    files = cifar_files("cifar10", "binary", parts)
    write_directory(directory, files | {f"{k}.bin": v for k, v in changes.items()})


def write_cifar100(directory, content):
    """Writes a small unpacked Python CIFAR-100 whose training file is `content`."""
    parts = make_parts({"train": 20, "test": 10})
    files = cifar_files("cifar100", "python", parts)
    write_directory(directory, files | {"train": content})


def python2_pickle(value):
    """Pickles `value` as Python 2 and its NumPy did, which Python 3 cannot do."""
    return pickle.PROTO + b"\x02" + _python2(value) + pickle.STOP


def _python2(value):
    if isinstance(value, dict):
        items = b"".join(_python2(key) + _python2(item) for key, item in value.items())
        return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS
    if isinstance(value, list):
        items = b"".join(_python2(item) for item in value)
        return pickle.EMPTY_LIST + pickle.MARK + items + pickle.APPENDS
    if isinstance(value, str):
        return pickle.SHORT_BINSTRING + bytes([len(value)]) + value.encode()
    if isinstance(value, int):
        return pickle.BININT + struct.pack("<i", value)
    shape = _python2(value.shape[0]) + _python2(value.shape[1]) + pickle.TUPLE2
    dtype = (
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    data = pickle.BINSTRING + struct.pack("<i", value.nbytes) + value.tobytes()
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + shape
        + dtype
        + pickle.NEWFALSE
        + data
        + b"tb"
    )


def prepare_tfds(directory, name, parts, with_id=True):
    """Prepares TFDS's set `name` in two ArrayRecord shards a split, without TensorFlow.

    TFDS prepares the copy with its keys, hence in its order. Only its reading of the raw files is
    replaced, because it needs TensorFlow. Returns the directory of the copy.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered
    from tensorflow_datasets.datasets.svhn_cropped import svhn_cropped_dataset_builder as svhn
    from tensorflow_datasets.image_classification import cifar, mnist

    stock = {
        "fashion_mnist": mnist.FashionMNIST,
        "cifar10": cifar.Cifar10,
        "cifar100": cifar.Cifar100,
        "svhn_cropped": svhn.Builder,
    }[name]

    def split_generators(self, manager):
        return {part: generate_examples(part) for part in parts}

    def generate_examples(part):
        digits = 6 if name == "svhn_cropped" else 5
        for index, (image, label) in enumerate(zip(*parts[part], strict=True)):
            png = io.BytesIO()
            Image.fromarray(image.squeeze()).save(png, "PNG")
            example = {"image": png.getvalue(), "label": int(label)}
            if name != "fashion_mnist" and with_id:
                example["id"] = f"{part}_{index:0{digits}d}"
            if name == "cifar100":
                example["coarse_label"] = int(label) // 5
            yield index, example

    def without_id(self):
        features = dict(stock._info(self).features)
        del features["id"]
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    tfds.disable_progress_bar()
    with registered.skip_registration():
        members = {
            "name": name,
            "pkg_dir_path": pathlib.Path(svhn.__file__).parent,
            "_split_generators": split_generators,
            "_generate_examples": generate_examples,
        }
        if not with_id and name != "fashion_mnist":
            members["_info"] = without_id
        builder = type(stock.__name__, (stock,), members)(
            data_dir=directory, file_format="array_record"
        )
    config = tfds.download.DownloadConfig(num_shards=2, try_download_gcs=False)
    builder.download_and_prepare(download_config=config)
    return pathlib.Path(builder.data_dir)


def to_tfrecord(directory):
    """Rewrites a copy from ArrayRecord to TFRecord, as TFDS and TensorFlow would have written it.

    The checksums are zero, because nothing reads them.
    """
    import tensorflow_datasets as tfds

    raw_bytes = tfds.decode.DeserializeMethod.RAW_BYTES
    builder = tfds.builder_from_directory(directory)
    for split, info in builder.info.splits.items():
        records = iter(builder.as_data_source(split, deserialize_method=raw_bytes))
        for path, length in zip(info.filepaths, info.shard_lengths, strict=True):
            with path.with_name(path.name.replace("array_record", "tfrecord")).open("wb") as file:
                for _ in range(length):
                    record = next(records)
                    file.write(struct.pack("<QI", len(record), 0) + record + bytes(4))
            path.unlink()
    edit_info(directory, fileFormat="tfrecord")


def edit_info(directory, **changes):
    path = directory / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def assert_same(split, images, labels):
    assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
    np.testing.assert_array_equal(split.images, images)
    np.testing.assert_array_equal(split.labels, labels)


def refuses(name, directory, message):
    """Checks that `load` raises an InputError of one line that matches `message`."""
    with pytest.raises(InputError, match=message) as caught:
        sources.load(name, str(directory))
    assert "\n" not in str(caught.value)
