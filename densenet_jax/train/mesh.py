"""Placement of arrays: one mesh axis, "data", over all devices of all hosts."""

import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from densenet_jax.errors import InputError


def all_devices() -> list[jax.Device]:
    """Returns the devices of all hosts. Raises InputError if JAX cannot use any.

    The first call starts JAX's backends.
    """
    try:
        return jax.devices()
    # jax 0.10 fails an assertion if JAX_PLATFORMS is cuda and there is no GPU.
    except (RuntimeError, AssertionError) as error:
        names = ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES")
        found = [f"{name}={os.environ[name]!r}" for name in names if name in os.environ]
        reason = " ".join(str(error).split()).partition(" (set JAX_PLATFORMS")[0]
        raise InputError(
            f"JAX cannot use any device with {' and '.join(found) or 'its defaults'} "
            f"({reason or 'there is none'}): unset the variable, set JAX_PLATFORMS=cpu, or install "
            "the driver and the JAX of the device, such as jax[cuda12] or jax[tpu]"
        ) from error


def data_mesh(batch_size: int, devices: Sequence | None = None, parts: int = 1) -> Mesh:
    """Builds a mesh of `devices`; None: of all devices.

    Raises InputError if the devices cannot equally share each of the `parts` of a batch.
    """
    devices = all_devices() if devices is None else devices
    if batch_size % (parts * len(devices)):
        of_parts = f" in {parts} parts" if parts > 1 else ""
        raise InputError(
            f"batch_size {batch_size}{of_parts} cannot be shared equally by {len(devices)} "
            f"devices: use a multiple of {parts * len(devices)}"
        )
    # Auto: shardings are propagated, so one program serves any number of devices.
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def platform(mesh: Mesh) -> str:
    """Returns the kind of the devices: "cpu", "gpu" or "tpu"."""
    return mesh.devices.flat[0].platform


def place(tree, sharding: NamedSharding):
    """Puts a tree of arrays on devices. Each host puts its part of arrays that hosts share."""
    if jax.process_count() == 1 or sharding.is_fully_replicated:
        return jax.device_put(tree, sharding)  # Checks that all hosts have equal arrays.

    def put(array):
        return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])

    return jax.tree.map(put, tree)


def local_rows(sharding: NamedSharding, rows: int) -> np.ndarray:
    """Returns which of `rows` rows `sharding` puts on devices of this process, ascending."""
    parts = sharding.addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[part] for part in parts]))


def place_rows(array: np.ndarray, local: np.ndarray, rows: int, sharding: NamedSharding):
    """Returns the global array `[1, rows, ...]`, sharded along its rows.

    Args:
      array: the rows of this process, `[len(local), ...]`.
      local: indices of these rows among all `rows`; see `local_rows`.
    """

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        wanted = np.arange(rows)[index[1]] if index else np.arange(rows)
        start = np.searchsorted(local, wanted[0])
        return array[None, start : start + len(wanted)]

    return jax.make_array_from_callback((1, rows, *array.shape[1:]), sharding, part)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that copies an array to all devices."""
    return NamedSharding(mesh, P())


def batch_sharded(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Returns the sharding that divides dimension `axis` among the devices."""
    return NamedSharding(mesh, P(*[None] * axis, "data"))
