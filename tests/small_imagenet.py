"""A small set of photographs in exactly the formats of ImageNet."""

import io
import tarfile

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from densenet_jax.data import imagenet

# Of classes far apart, and of which TFDS's list says that they are those of validation pictures.
CLASSES = ("n01440764", "n02105855", "n03018349")
# Width and height of the pictures of each class, as various as ImageNet's.
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
    """A part of one of two photographs, never the same one twice."""
    whole = Image.fromarray(load_sample_images().images[number % 2])
    random = np.random.RandomState(number)
    left, top = random.randint(0, 200), random.randint(0, 130)
    return whole.crop((left, top, left + 400, top + 280)).resize(size, Image.Resampling.BICUBIC)


def encode(picture, kind="JPEG"):
    data = io.BytesIO()
    picture.save(data, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return data.getvalue()


def train_pictures():
    """{class: {file name: bytes}}; among them one in CMYK, a PNG of that name, and grey ones."""
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
    """{file name: bytes}, the first ones of the official list."""
    return {
        f"ILSVRC2012_val_{i + 1:08d}.JPEG": encode(photograph(50 + i, SIZES[i % len(SIZES)]))
        for i in range(count)
    }


def validation_class(file_name):
    label = imagenet._validation_labels([file_name])[0]
    return list(imagenet.classes())[label]


def write_folders(folder, train, validation):
    for name, files in train.items():
        _write(folder / "train" / name, files)
    for file_name, data in validation.items():
        _write(folder / "val" / validation_class(file_name), {file_name: data})


def _write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".DS_Store").write_bytes(b"")
    for name, data in files.items():
        (folder / name).write_bytes(data)


def tar(files):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def write_archives(folder, train, validation):
    """Writes their members in no order, beside files that macOS adds."""
    folder.mkdir(parents=True, exist_ok=True)
    classes = {
        f"{name}.tar": tar({"._a.JPEG": b"", **dict(reversed(files.items()))})
        for name, files in train.items()
    }
    classes["._a.tar"] = b""
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar(dict(reversed(classes.items()))))
    shuffled = sorted(validation.items(), key=lambda item: item[0][::-1])
    (folder / "ILSVRC2012_img_val.tar").write_bytes(tar(dict(shuffled)))


def write_with_tfds(folder, train, validation):
    """What TFDS itself writes, in its order; only its reading of archives, by TensorFlow, is ours.

    The pictures are not changed, as TFDS would change those in CMYK and the PNG.
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
            data_dir=folder, file_format="array_record"
        )
    config = tfds.download.DownloadConfig(num_shards=2, try_download_gcs=False, manual_dir=folder)
    builder.download_and_prepare(download_config=config)
    return pathlib.Path(builder.data_dir)
