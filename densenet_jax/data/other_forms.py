"""Reads published sets in forms other than those of their authors and of TFDS.

Copies on the Hugging Face hub are parquet files. fast.ai's copies have a directory of PNG files for
each class. Kaggle's CIFAR-10 has PNG files with a table of labels.
"""

import logging
import pathlib

from densenet_jax.data import parquet, png_folders
from densenet_jax.data.archives import Piece, naming_file
from densenet_jax.data.facts import FACTS
from densenet_jax.errors import InputError

_FORMS = (parquet.find, png_folders.find_folders, png_folders.find_kaggle)


def read(name: str, directory: pathlib.Path) -> dict[str, Piece] | None:
    """Reads the parts of a set, or returns None if `directory` has none of these forms.

    Logs that the order of the images may differ from that of the authors' files.

    Raises InputError if a part is missing, or if a file is damaged or of another set.
    """
    readers = {}
    with naming_file(directory):
        for part in FACTS[name].sizes:
            readers[part] = next(
                filter(None, (find(name, directory, part) for find in _FORMS)), None
            )
    if not any(readers.values()):
        return None
    for part, reader in readers.items():
        if reader is None:
            raise InputError(
                f"{directory} has no {part!r} part of {name}: add it, or run `python -m "
                f"launch.fetch {name}` and leave data.directory unset"
            )
    pieces = {part: reader() for part, reader in readers.items() if reader}
    logging.getLogger("densenet_jax").warning(
        "%s: the images may have another order than in the authors' files, so a run is not "
        "bit-identical to a run on the authors' files",
        directory,
    )
    return pieces
