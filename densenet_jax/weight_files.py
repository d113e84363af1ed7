"""Files of weights: read as numbers only, whatever else they hold."""

import importlib.util
from pathlib import Path

import numpy as np

from densenet_jax.errors import InputError

_NEEDED = {".safetensors": "safetensors", ".pth": "torch", ".pt": "torch", ".bin": "torch"}


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays in a `.safetensors` file, or in one that PyTorch wrote (`.pth`, `.pt`, `.bin`).

    Code in the latter is not run. Arrays of a type that NumPy has not come as float32.

    Raises:
      InputError: no such file; it is damaged, or holds anything but arrays; or the library that
        reads it is not installed.
    """
    path = Path(path)
    if path.suffix not in _NEEDED:
        raise InputError(f"{path}: weights are read from {', '.join(_NEEDED)} files.")
    if not path.is_file():
        raise InputError(f"there is no weights file {path}.")
    library = _NEEDED[path.suffix]
    if importlib.util.find_spec(library) is None:
        raise InputError(f"{path} is read through {library}: `pip install {library}`.")
    try:
        return _read_safetensors(path) if library == "safetensors" else _read_torch(path)
    # What parsers answer to a damaged file is of every kind.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise InputError(
            f"{path} holds no weights that can be read ({reason}): get it anew."
        ) from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    import torch

    arrays = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(arrays, dict) or not all(map(torch.is_tensor, arrays.values())):
        raise ValueError("it is no dict of tensors")
    return {
        name: tensor.detach().to(_numpy_type(tensor.dtype)).numpy()
        for name, tensor in arrays.items()
    }


def _numpy_type(dtype):
    import torch

    return torch.float32 if dtype == torch.bfloat16 else dtype
