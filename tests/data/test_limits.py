"""Tests limits of pictures and image sets: a file at a limit is read, one beyond it is refused."""

import io
import os
import pathlib
import socket
import struct
import zlib

import numpy as np
import published_sets
import pytest
import scipy.io
from PIL import Image
from published_sets import refuses

from densenet_jax.data import encoded, imagenet, pictures, sources, tfds_copy
from densenet_jax.data import svhn as svhn_reader
from densenet_jax.data.facts import FACTS
from densenet_jax.data.random_crop import random_crop
from densenet_jax.errors import InputError, UnsupportedFile
from densenet_jax.files import read_regular

SOS = b"\xff\xda"


def encode(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def crop(data, **options):
    return random_crop(data, 8, np.random.default_rng(0), **options)


def test_pixels_of_a_picture():
    data = encode(Image.new("L", (10, 10)), "PNG")
    for read in (pictures.decode, crop):
        read(data, max_pixels=100)
        with pytest.raises(UnsupportedFile, match="has 100 pixels, more than the limit of 99"):
            read(data, max_pixels=99)
    pictures.check_pixels(pictures.MAX_PIXELS, 1, pictures.MAX_PIXELS)
    with pytest.raises(UnsupportedFile, match="has 178,956,971 pixels"):
        pictures.check_pixels(pictures.MAX_PIXELS + 1, 1, pictures.MAX_PIXELS)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG"])
def test_pixels_are_counted_before_decoding(kind):
    """Truncates the file after its header, so that decoding would find damage."""
    data = encode(Image.new("RGB", (200, 200)), kind)
    if kind not in ("WEBP", "TIFF"):  # Pillow reads all chunks of these formats.
        data = data[:-100] if kind == "JPEG" else data[: len(data) // 2]
    with pytest.raises(UnsupportedFile, match="has 40,000 pixels"):
        pictures.decode(data, max_pixels=39_999)


def test_pixels_after_resizing(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_ENLARGED_PIXELS", 2**14)
    resize = pictures.CentralCrop(32, 32)
    for cut in (resize, resize.ten):
        assert cut(Image.new("L", (1, 16))).shape[-3:] == (32, 32, 1)
        with pytest.raises(UnsupportedFile, match="1 x 17 pixels, which would become 32 x 544"):
            cut(Image.new("L", (1, 17)))
    # A picture that is not enlarged has no such limit.
    pictures.CentralCrop(200, 200)(Image.new("L", (200, 200)))


def test_a_picture_of_82_bytes_that_would_take_5_gigabytes():
    data = encode(Image.new("1", (20_000, 1)), "PNG")
    with pytest.raises(UnsupportedFile, match="would become 5,120,000 x 256"):
        pictures.CentralCrop()(pictures.decode(data))


def with_scans(count):
    """Returns a progressive JPEG of 8 x 8 pixels whose last scan is repeated."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    whole = encode(Image.fromarray(noise), "JPEG", progressive=True)
    *scans, last = whole.removesuffix(b"\xff\xd9").split(SOS)
    return SOS.join([*scans, *[last] * (count - len(scans) + 1)]) + b"\xff\xd9"


@pytest.mark.parametrize("read", [pictures.decode, crop])
def test_scans_of_a_jpeg(read):
    at_limit = with_scans(pictures.MAX_SCANS)
    assert at_limit.count(SOS) == pictures.MAX_SCANS
    read(at_limit, max_pixels=64)
    with pytest.raises(
        UnsupportedFile, match="has 21 JPEG scans of 64 pixels, more than the limit of 20"
    ):
        read(with_scans(pictures.MAX_SCANS + 1), max_pixels=64)
    read(with_scans(pictures.MAX_SCANS + 1), max_pixels=128)


def tiled(width, height):
    """Returns a compressed TIFF of 16 x 16 grey pixels in one tile of `width` x `height`."""
    data = zlib.compress(bytes(width * height))
    entries = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1)]
    entries += [(322, width), (323, height), (324, 8 + 2 + 12 * 10 + 4), (325, len(data))]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + data


def test_tiles_of_a_tiff():
    assert np.asarray(pictures.decode(tiled(32, 16), max_pixels=512)).shape == (16, 16, 3)
    with pytest.raises(UnsupportedFile, match="TIFF tiles of 32 x 32 pixels, more than the limit"):
        pictures.decode(tiled(32, 32), max_pixels=512)


@pytest.mark.parametrize("chunk", [b"zTXt", b"iCCP"])
def test_compressed_text_in_a_png(chunk):
    """Pillow refuses more than 1 MB."""
    for size, is_read in ((2**19, True), (2**20 + 2**10, False)):
        content = b"a\0\0" + zlib.compress(bytes(size))
        checksum = struct.pack(">I", zlib.crc32(chunk + content))
        data = encode(Image.new("L", (8, 8)), "PNG")
        data = data[:33] + struct.pack(">I", len(content)) + chunk + content + checksum + data[33:]
        if is_read:
            pictures.decode(data)
        else:
            with pytest.raises(ValueError, match="too large"):
                pictures.decode(data)


def test_bytes_of_a_picture(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(data := encode(Image.new("L", (8, 8)), "PNG"))
    held = encoded.Pieces(tmp_path, ["a.png"], ["a.png"], np.array([0]))
    for module in (pictures, encoded):
        monkeypatch.setattr(module, "MAX_PICTURE_BYTES", len(data))
    pictures.load(path)
    assert held[0].data == data
    path.write_bytes(data + b"\0")
    with pytest.raises(InputError, match=rf"a\.png has {len(data) + 1} bytes, more than the limit"):
        pictures.load(path)
    with pytest.raises(UnsupportedFile, match="more than the limit"):
        held[0]


def test_a_sparse_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.jpg"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match="has 1,099,511,627,776 bytes, more than the limit"):
        pictures.load(path)


def test_sides_of_crops():
    pictures.CentralCrop(pictures.MAX_SIDE, pictures.MAX_SIDE)
    for settings in ((pictures.MAX_SIDE + 1, 8), (10**6, 10**6)):
        with pytest.raises(InputError, match="is more than the limit of 4096: use a smaller one"):
            pictures.CentralCrop(*settings)
    for settings in (("8", 8), (8, True), (8, 8.0), (None, 8)):
        with pytest.raises(InputError, match="it must be an integer"):
            pictures.CentralCrop(*settings)


def test_only_the_first_frame_is_read():
    frames = [Image.new("L", (8, 8), level) for level in (10, 200)]
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert np.unique(np.asarray(pictures.decode(data))).tolist() == [10]


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PCX", "SGI"])
def test_other_formats_are_refused_under_any_name(tmp_path, kind):
    path = tmp_path / "picture.jpg"
    Image.new("L", (16, 16)).save(path, kind)
    with pytest.raises(InputError, match="Pillow does not know its format"):
        pictures.load(path)


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


OTHERS = {
    "a named pipe": make_pipe,
    "a directory": pathlib.Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_only_regular_files_are_opened(tmp_path, kind):
    OTHERS[kind](tmp_path / "a.jpg")
    held = encoded.Pieces(tmp_path, ["a.jpg"], ["a.jpg"], np.array([0]))
    for read in (pictures.load, lambda path: held[0], lambda path: read_regular(path, 9)):
        with pytest.raises(InputError, match=f"a.jpg is {kind}, not a regular file: remove it"):
            read(tmp_path / "a.jpg")


def test_sockets_and_dangling_links(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # The path of a socket is short.
    make_socket("a.jpg")
    with pytest.raises(InputError, match=r"a\.jpg is a socket"):
        pictures.load(pathlib.Path("a.jpg"))
    (tmp_path / "b.jpg").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"cannot read .*b\.jpg: No such file"):
        pictures.load(tmp_path / "b.jpg")


def test_named_pipes_in_place_of_data_files(tmp_path):
    for name in ("train_32x32.mat", "extra_32x32.mat", "test_32x32.mat"):
        os.mkfifo(tmp_path / name)
    refuses("svhn", tmp_path, "train_32x32.mat is a named pipe, not a regular file")
    os.mkfifo(tmp_path / imagenet.ARCHIVES["train"])
    with pytest.raises(InputError, match=r"train\.tar is a named pipe"):
        imagenet.find(tmp_path)


def test_a_tfds_copy_with_a_named_pipe(tmp_path):
    copy = published_sets.prepare_tfds(
        tmp_path, "cifar10", published_sets.make_parts({"train": 3, "test": 3})
    )
    (copy / "features.json").unlink()
    os.mkfifo(copy / "features.json")
    with pytest.raises(InputError, match=r"features\.json is a named pipe"):
        tfds_copy.read(copy, "train", FACTS["cifar10"])


@pytest.fixture
def svhn(tmp_path):
    parts = published_sets.make_parts({"train": 20, "extra": 20, "test": 10})
    published_sets.write_svhn(tmp_path, parts)
    return tmp_path


def test_labels_of_svhn(svhn, monkeypatch):
    monkeypatch.setattr(svhn_reader, "MAX_IMAGES", 20)
    assert len(sources.load("svhn", str(svhn)).train) == 40
    content = {"X": np.zeros((32, 32, 3, 20), np.uint8), "y": np.zeros((21, 1))}
    scipy.io.savemat(svhn / "extra_32x32.mat", content)
    refuses("svhn", svhn, r"extra_32x32.mat has labels of shape \(21, 1\), more than 20")


def test_labels_that_would_take_a_gigabyte(svhn):
    """Two million labels compress to 16 kB."""
    content = {"X": np.zeros((32, 32, 3, 20), np.uint8), "y": np.zeros((2_000_000, 1))}
    scipy.io.savemat(svhn / "extra_32x32.mat", content, do_compression=True)
    refuses("svhn", svhn, r"has labels of shape \(2000000, 1\), more than 1,048,576")


def test_images_of_svhn_that_unpack_to_far_more(svhn, monkeypatch):
    path = svhn / "extra_32x32.mat"
    content = {"X": np.zeros((32, 32, 3, 200), np.uint8), "y": np.arange(200) % 10}
    scipy.io.savemat(path, content, do_compression=True)
    ratio = 200 * 3072 / path.stat().st_size
    monkeypatch.setattr(svhn_reader, "MAX_INFLATION", int(ratio) + 1)
    assert len(sources.load("svhn", str(svhn)).train) == 220
    monkeypatch.setattr(svhn_reader, "MAX_INFLATION", int(ratio))
    refuses(
        "svhn",
        svhn,
        "extra_32x32.mat of .* bytes unpacks to 614,400, more than .* times as many: replace it",
    )


@pytest.mark.parametrize("label", [1.7, 1 + 2j])
def test_labels_that_are_not_integers(svhn, label):
    content = {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[1], [label]])}
    scipy.io.savemat(svhn / "extra_32x32.mat", content)
    refuses("svhn", svhn, "has labels (that are not all integers|of type complex128 instead)")
