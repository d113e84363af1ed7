"""Files of weights: read as numbers only, whatever else they hold."""

import importlib.util
import socket
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from densenet_jax.errors import InputError

HUB = "hf:"
_LIBRARIES = {".safetensors": "safetensors", ".pth": "torch", ".pt": "torch", ".bin": "torch"}
_SECONDS = 5  # To wait for the hub's first answer.


def read(source: str | Path) -> dict[str, np.ndarray]:
    """The arrays in a file, by name.

    Code in a file is not run. Arrays of a type that NumPy has not come as float32.

    Args:
      source: a `.safetensors` file; one that PyTorch wrote (`.pth`, `.pt`, `.bin`), of a state
        dict, perhaps under the name `state_dict` or `model`; or `hf:REPOSITORY` for
        `model.safetensors` of that repository of the Hugging Face hub, from the local cache or
        else downloaded.

    Raises:
      InputError: no such file; it is damaged, or holds anything but arrays; the hub cannot be
        reached; or the library that reads it is not installed.
    """
    path = _from_hub(str(source)) if str(source).startswith(HUB) else Path(source)
    if path.suffix not in _LIBRARIES:
        raise InputError(f"{path}: weights are read from {', '.join(_LIBRARIES)} files.")
    if not path.is_file():
        raise InputError(f"there is no weights file {path}.")
    library = _LIBRARIES[path.suffix]
    _need(library, path)
    try:
        return _read_safetensors(path) if library == "safetensors" else _read_torch(path)
    # What parsers answer to a damaged file is of every kind.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise InputError(
            f"{path} holds no weights that can be read ({reason}): get it anew."
        ) from error


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a `.safetensors` file that is there whole or not at all."""
    _need("safetensors", path)
    from safetensors.numpy import save

    unfinished = path.with_name(f".{path.name}.new")
    # The library writes memory as it lies, without looking at strides. Files that it opens itself
    # nobody else may read.
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    unfinished.write_bytes(content)
    unfinished.replace(path)


def _need(library: str, what: object) -> None:
    if importlib.util.find_spec(library) is None:
        raise InputError(f"{what} needs {library}: `pip install {library}`.")


def _from_hub(source: str) -> Path:
    _need("huggingface_hub", source)
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, name = source.removeprefix(HUB), "model.safetensors"
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name, local_files_only=True))
    except HFValidationError as error:
        raise InputError(f"{source} names no repository: {error}") from error
    except LocalEntryNotFoundError:
        pass
    # The library would try for half a minute.
    hub = urllib.parse.urlsplit(huggingface_hub.constants.ENDPOINT)
    try:
        socket.create_connection((hub.hostname, hub.port or 443), _SECONDS).close()
        return Path(huggingface_hub.hf_hub_download(repository, name))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{source} is not in the local cache, and {hub.hostname} does not give it ({reason}): "
            "download its model.safetensors elsewhere and name the file."
        ) from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    import torch

    found = torch.load(path, map_location="cpu", weights_only=True)
    for name in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict) or not all(map(torch.is_tensor, found.values())):
        raise ValueError("it is no dict of tensors")
    return {name: _as_numpy(tensor.detach()) for name, tensor in found.items()}


def _as_numpy(tensor) -> np.ndarray:
    try:
        return tensor.numpy()
    except TypeError:  # bfloat16, for one.
        return tensor.float().numpy()
