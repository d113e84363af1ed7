"""Where arrays live: one mesh axis, "data", over all devices of all hosts."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from densenet_jax.errors import InputError


def data_mesh(batch_size: int) -> Mesh:
    """A mesh of all devices. Raises InputError if they cannot share `batch_size` images equally."""
    devices = jax.device_count()
    if batch_size % devices:
        raise InputError(
            f"batch_size {batch_size} cannot be shared equally by {devices} devices: "
            f"use a multiple of {devices}."
        )
    # Auto: shardings are propagated, so one program serves any number of devices.
    return jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_sharded(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Dimension `axis` divided over the devices."""
    return NamedSharding(mesh, P(*[None] * axis, "data"))
