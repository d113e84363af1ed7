"""Reads and writes weights files. Code in a file never runs."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from densenet_jax import hub, torch_files
from densenet_jax.errors import InputError
from densenet_jax.files import open_regular, write_durably
from densenet_jax.torch_files import TooLarge, Unreadable

# Most bytes of tensors in a file; the largest network of the catalogue has 0.75 GB in float32.
MAX_BYTES = 2**33
MAX_HEADER_BYTES = 2**24  # Largest header of a safetensors file; 10,000 tensors take 1 MB.
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


def read(source: str | Path, max_bytes: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """Returns the arrays in a weights file, by name.

    The content of a file decides how the file is read, not its name. Code in a file does not run,
    see `torch_files`. Entries that are not tensors are ignored with a logged warning.

    Args:
      source: one of
        a safetensors file;
        a file of `torch.save` that holds a state dict, alone or in a training checkpoint;
        `hf:REPOSITORY` for `model.safetensors` of a repository of the Hugging Face hub, which is
        downloaded unless it is in the local cache.
      max_bytes: limit on the bytes of all tensors; larger files are refused unread.

    Raises:
      InputError: the file does not exist or holds no weights that can be read, the hub cannot be
        reached, or the library that reads the file is not installed.
    """
    if str(source).startswith(hub.HUB):
        path = hub.download(str(source), "model.safetensors")
    else:
        path = Path(source).expanduser()
    if not path.exists():
        raise InputError(f"there is no weights file {path}")
    try:
        return _read(path, max_bytes)
    except InputError:
        raise
    # Parsers raise exceptions of every kind for a damaged file.
    except Exception as error:
        reason = "it is cut off" if isinstance(error, EOFError) else hub.as_reason(error)
        remedy = error.remedy if isinstance(error, Unreadable) else "download it again"
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


def _read(path: Path, max_bytes: int) -> dict[str, np.ndarray]:
    with open_regular(path) as file:
        start = file.read(512)
    # Safetensors: 8 bytes with the length of a JSON header, then the header.
    if start[8:9] == b"{":
        return _read_safetensors(path, int.from_bytes(start[:8], "little"), max_bytes)
    if start.startswith(b"PK"):
        return _read_zip(path, max_bytes)
    if start.startswith(b"\x80"):
        return torch_files.read_legacy(path, max_bytes)
    if not start:
        raise Unreadable("it is empty")
    for beginning, reason_and_remedy in _OTHER_FILES.items():
        if start.lstrip().startswith(beginning):
            raise Unreadable(*reason_and_remedy)
    if start[257:262] == b"ustar":
        raise Unreadable("it is a tar archive", "unpack it")
    # The version of ONNX, then the name of the program that wrote the file.
    if start[:1] == b"\x08" and start[2:3] == b"\x12":
        raise Unreadable("it is an ONNX file", _USE)
    raise Unreadable(f"it begins with {start[:16]!r}", _USE)


def _read_safetensors(path: Path, header_bytes: int, max_bytes: int) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    size = path.stat().st_size
    if header_bytes > min(MAX_HEADER_BYTES, size):
        raise Unreadable(f"its header claims {header_bytes:,} bytes")
    # The library refuses tensors that overlap, leave gaps, or do not end with the file.
    if size - header_bytes - 8 > max_bytes:
        raise TooLarge(size - header_bytes - 8, max_bytes)
    try:
        return load_file(path)
    except AttributeError as error:  # safetensors looks up the type in NumPy.
        raise Unreadable(
            "its numbers have a type that NumPy lacks", "convert them to float32"
        ) from error


def _read_zip(path: Path, max_bytes: int) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise Unreadable("it is a zip archive that is cut off") from error
    for ending, reason_and_remedy in _OTHER_ARCHIVES.items():
        if any(name.endswith(ending) for name in names):
            raise Unreadable(*reason_and_remedy)
    if any(name.endswith("/data.pkl") for name in names):
        return torch_files.read_zip(path, max_bytes)
    inside = ", ".join(names[:3]) or "nothing"
    raise Unreadable(f"it is a zip archive of {inside}", "unpack it and name the file with weights")
