"""Writes a small set of photographs in exactly the formats of ImageNet."""

import io
import tarfile

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from densenet_jax.data import imagenet

# Classes with distant labels. TFDS's list contains validation pictures of these classes.
CLASSES = ("n01440764", "n02105855", "n03018349")
# Width and height of the pictures of each class, as varied as in ImageNet.
SIZES = (
    (500, 375),
    (375, 500),
    (640, 427),
    (333, 500),
    (120, 90),
    (800, 300),
    (1000, 900),
    (60, 200),
)


def photograph(number, size):
    """Returns a part of one of two photographs; each number gives a different part."""
    whole = Image.fromarray(load_sample_images().images[number % 2])
    random = np.random.RandomState(number)
    left, top = random.randint(0, 200), random.randint(0, 130)
    return whole.crop((left, top, left + 400, top + 280)).resize(size, Image.Resampling.BICUBIC)


def encode(picture, kind="JPEG"):
    data = io.BytesIO()
    picture.save(data, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return data.getvalue()


def train_pictures():
    """Returns {class: {file name: bytes}}, with CMYK, a PNG named .JPEG, and grey pictures."""
    pictures = {}
    for label, name in enumerate(CLASSES):
        files = pictures[name] = {}
        for i, size in enumerate(SIZES):
            picture, kind = photograph(10 * label + i, size), "JPEG"
            if (label, i) == (0, 1):
                picture = picture.convert("CMYK")
            if (label, i) == (1, 2):
                kind = "PNG"
            if i == 3:
                picture = picture.convert("L")
            files[f"{name}_{1000 + 37 * i}.JPEG"] = encode(picture, kind)
    return pictures


def validation_pictures(count=9):
    """Returns {file name: bytes} with the first names of the official list."""
    return {
        f"ILSVRC2012_val_{i + 1:08d}.JPEG": encode(photograph(50 + i, SIZES[i % len(SIZES)]))
        for i in range(count)
    }


def validation_class(file_name):
    label = imagenet._validation_labels([file_name])[0]
    return list(imagenet.classes())[label]


def write_directories(directory, train, validation):
    for name, files in train.items():
        _write(directory / "train" / name, files)
    for file_name, data in validation.items():
        _write(directory / "val" / validation_class(file_name), {file_name: data})


def _write(directory, files):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ".DS_Store").write_bytes(b"")
    for name, data in files.items():
        (directory / name).write_bytes(data)


def tar(files):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def write_archives(directory, train, validation):
    """Writes archives with unsorted members, and with files that macOS adds."""
    directory.mkdir(parents=True, exist_ok=True)
    classes = {
        f"{name}.tar": tar({"._a.JPEG": b"", **dict(reversed(files.items()))})
        for name, files in train.items()
    }
    classes["._a.tar"] = b""
    (directory / "ILSVRC2012_img_train.tar").write_bytes(tar(dict(reversed(classes.items()))))
    shuffled = sorted(validation.items(), key=lambda item: item[0][::-1])
    (directory / "ILSVRC2012_img_val.tar").write_bytes(tar(dict(shuffled)))


def write_with_tfds(directory, train, validation):
    """Prepares a copy with TFDS, in its order; returns the directory of the copy.

    Only TFDS's reading of archives is replaced, because it needs TensorFlow. The pictures are not
    changed, although TFDS would change the CMYK picture and the PNG.
    """
    import pathlib

    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered
    from tensorflow_datasets.datasets.imagenet2012 import imagenet2012_dataset_builder as stock

    def examples(files):
        for file_name, (name, data) in files.items():
            yield file_name, {"image": data, "label": name, "file_name": file_name}

    def split_generators(self, manager):
        of_train = {f: (name, data) for name, files in train.items() for f, data in files.items()}
        of_validation = {f: (validation_class(f), data) for f, data in validation.items()}
        return {"train": examples(of_train), "validation": examples(of_validation)}

    tfds.disable_progress_bar()
    with registered.skip_registration():
        members = {
            "name": "imagenet2012",
            "pkg_dir_path": pathlib.Path(stock.__file__).parent,
            "_split_generators": split_generators,
        }
        builder = type("Builder", (stock.Builder,), members)(
            data_dir=directory, file_format="array_record"
        )
    config = tfds.download.DownloadConfig(
        num_shards=2, try_download_gcs=False, manual_dir=directory
    )
    builder.download_and_prepare(download_config=config)
    return pathlib.Path(builder.data_dir)
