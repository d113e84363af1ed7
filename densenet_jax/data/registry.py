"""Lists the published files of image sets: addresses, sizes and SHA-256 digests.

They come from the registry of TensorFlow Datasets, so that this project holds no copy of them.
"""

import pathlib
import urllib.parse
from typing import NamedTuple

from densenet_jax.data.sources import READERS
from densenet_jax.errors import InputError, printable, suggest

# Directories of other servers with the very same files.
_MIRRORS = {
    "fashion_mnist": ["https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion"]
}


class PublishedFile(NamedTuple):
    """A file as its authors published it."""

    url: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return pathlib.PurePosixPath(urllib.parse.urlsplit(self.url).path).name


def check_name(name: str) -> None:
    """Raises InputError for a set that cannot be downloaded."""
    names = [known for known, reader in READERS.items() if reader.tfds_name]
    if name == "imagenet":
        raise InputError(
            "imagenet cannot be downloaded without an account: get its two archives from "
            "https://image-net.org, and run `python -m launch.prepare`"
        )
    if name not in names:
        raise InputError(f"there is no data set {name!r} to download: {suggest(name, names)}")


def published_files(name: str) -> list[PublishedFile]:
    """Returns the files of a set, as the registry of TensorFlow Datasets lists them."""
    import tensorflow_datasets as tfds

    registry = tfds.builder_cls(READERS[name].tfds_name).url_infos
    return [PublishedFile(url, int(info.size), info.checksum) for url, info in registry.items()]


def addresses(name: str, file: PublishedFile, url: str | None) -> list[str]:
    """Returns the addresses to download a file from, in order.

    Args:
      url: directory of the only server to ask; None: the authors' server and its mirrors.

    Raises InputError for a `url` that is not of HTTP.
    """
    if url is None:
        return [file.url, *(f"{mirror}/{file.name}" for mirror in _MIRRORS.get(name, []))]
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        usable = False
    if not usable or not url.isascii() or printable(url) != url or " " in url:
        raise InputError(
            f"the URL {url!r} cannot be used: write http://SERVER/DIRECTORY or "
            "https://SERVER/DIRECTORY"
        )
    return [f"{url.rstrip('/')}/{file.name}"]
