"""Where arrays live: one mesh axis, "data", over all devices of all hosts."""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from densenet_jax.errors import InputError


def data_mesh(batch_size: int, devices: Sequence | None = None) -> Mesh:
    """A mesh of `devices`, all if None. InputError if they cannot share `batch_size` equally."""
    devices = jax.devices() if devices is None else devices
    if batch_size % len(devices):
        raise InputError(
            f"batch_size {batch_size} cannot be shared equally by {len(devices)} devices: "
            f"use a multiple of {len(devices)}."
        )
    # Auto: shardings are propagated, so one program serves any number of devices.
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_sharded(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Dimension `axis` divided over the devices."""
    return NamedSharding(mesh, P(*[None] * axis, "data"))
