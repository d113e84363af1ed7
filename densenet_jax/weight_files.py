"""Reads and writes weights files. Code in a file never runs."""

import functools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from densenet_jax import hub, safetensors_files, torch_files
from densenet_jax.errors import InputError, UnreadableWeights
from densenet_jax.files import open_regular, write_durably

# Most bytes of tensors in a file; the largest network of the catalogue has 0.75 GB in float32.
MAX_BYTES = 2**33
PUBLISHED_NAMES = ("model.safetensors", "model.safetensors.index.json")  # In order of preference.
_USE = "use a .safetensors file or a state dict from torch.save"
# First bytes of other kinds of files, with the reason and the remedy that a message gives.
_OTHER_FILES = {
    b"version https://git-lfs": ("it is a Git LFS pointer", "run `git lfs pull`"),
    b"<": ("it is a web page", "download the file itself"),
    b"\x89HDF": ("it is an HDF5 file", _USE),
    b"\x93NUMPY": ("it is a NumPy array", _USE),
    b"\x1f\x8b": ("it is compressed", "unpack it"),
    b"BZh": ("it is compressed", "unpack it"),
    b"\xfd7zXZ": ("it is compressed", "unpack it"),
}
# Endings of names in other kinds of zip archives, with the reason and the remedy.
_OTHER_ARCHIVES = {
    "/constants.pkl": (
        "it is a TorchScript archive",
        "save the state_dict() of torch.jit.load(FILE) with torch.save instead",
    ),
    ".npy": ("it is an archive of NumPy arrays", "write them with safetensors.numpy.save_file"),
}


def read(
    source: str | Path, max_bytes: int = MAX_BYTES, ema: bool = False
) -> dict[str, np.ndarray]:
    """Returns the arrays in a weights file, by name.

    The content of a file decides how the file is read, not its name. Code in a file does not run,
    see `torch_files`. Entries that are not tensors are ignored with a logged warning.

    Args:
      source: one of
        a safetensors file;
        the index of safetensors shards, `model.safetensors.index.json`, beside its shards;
        a file of `torch.save` that holds a state dict or a whole module, alone or in a training
        checkpoint;
        `hf:REPOSITORY` for `model.safetensors`, or its index and shards, of a repository of the
        Hugging Face hub, which are downloaded unless they are in the local cache.
      max_bytes: limit on the bytes of all tensors; larger files are refused unread.
      ema: whether to read the averaged weights of a training checkpoint, which are under
        `state_dict_ema`, `model_ema` or `ema`, instead of the plain weights.

    Raises:
      InputError: the file does not exist or holds no weights that can be read, it has no averaged
        weights though `ema` is set, the hub cannot be reached, or the library that reads the file
        is not installed.
    """
    if str(source).startswith(hub.HUB):
        path = hub.download(str(source), *PUBLISHED_NAMES)
        # Shards of another commit than that of the index would mix two networks.
        fetch: Callable[[str], Path] = functools.partial(
            hub.download, str(source), revision=path.parent.name
        )
    else:
        path = Path(source).expanduser()
        fetch = path.parent.joinpath
    if not path.exists():
        raise InputError(f"there is no weights file {path}")
    try:
        return _read(path, max_bytes, ema, fetch)
    except InputError:
        raise
    # Parsers raise exceptions of every kind for a damaged file.
    except Exception as error:
        reason = "it is cut off" if isinstance(error, EOFError) else hub.as_reason(error)
        remedy = error.remedy if isinstance(error, UnreadableWeights) else "download it again"
        raise InputError(
            f"{path} holds no weights that can be read ({reason}): {remedy}"
        ) from error


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file durably; see `files.write_durably`."""
    from safetensors.numpy import save

    # safetensors ignores strides, so arrays must be contiguous. Files that safetensors opens are
    # readable by their owner only, so this function writes the bytes.
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    write_durably(path, content)


def _read(
    path: Path, max_bytes: int, ema: bool, fetch: Callable[[str], Path]
) -> dict[str, np.ndarray]:
    with open_regular(path) as file:
        start = file.read(512)
    if safetensors_files.may_be_index(start):
        found = safetensors_files.read_shards(path, max_bytes, fetch)
        if found is not None:
            _refuse_ema(path, ema)
            return found
    if safetensors_files.is_safetensors(start):
        _refuse_ema(path, ema)
        return safetensors_files.read_file(path, max_bytes)
    if start.startswith(b"PK"):
        return _read_zip(path, max_bytes, ema)
    if start.startswith(b"\x80"):
        return torch_files.read_legacy(path, max_bytes, ema)
    if not start:
        raise UnreadableWeights("it is empty")
    for beginning, reason_and_remedy in _OTHER_FILES.items():
        if start.lstrip().startswith(beginning):
            raise UnreadableWeights(*reason_and_remedy)
    if start[257:262] == b"ustar":
        raise UnreadableWeights("it is a tar archive", "unpack it")
    # The version of ONNX, then the name of the program that wrote the file.
    if start[:1] == b"\x08" and start[2:3] == b"\x12":
        raise UnreadableWeights("it is an ONNX file", _USE)
    raise UnreadableWeights(f"it begins with {start[:16]!r}", _USE)


def _refuse_ema(path: Path, ema: bool) -> None:
    """Raises InputError if averaged weights of a safetensors file are asked for."""
    if ema:
        raise InputError(
            f"{path} is in safetensors format, which holds one set of weights: remove ema=True "
            "or --ema"
        )


def _read_zip(path: Path, max_bytes: int, ema: bool) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise UnreadableWeights("it is a zip archive that is cut off") from error
    for ending, reason_and_remedy in _OTHER_ARCHIVES.items():
        if any(name.endswith(ending) for name in names):
            raise UnreadableWeights(*reason_and_remedy)
    if any(name.endswith("/data.pkl") for name in names):
        return torch_files.read_zip(path, max_bytes, ema)
    inside = ", ".join(names[:3]) or "nothing"
    raise UnreadableWeights(
        f"it is a zip archive of {inside}", "unpack it and name the file with weights"
    )
