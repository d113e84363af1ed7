"""The only uses of private names of JAX, which any version may move.

tests/test_jax_private.py reports the names that the installed version lacks.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Cluster(NamedTuple):
    """The place of this process in a job of a cluster; None stands for missing variables.

    Attributes:
      address: HOST:PORT of the first process.
      processes: number of processes.
      process: index of this process.
      devices: local devices that this process may use; None if JAX may use all.
    """

    address: str | None
    processes: int | None
    process: int | None
    devices: Sequence[int] | None


def detect_cluster(devices: Sequence[int] | None) -> Cluster:
    """Reads the environment variables of Slurm and of other schedulers.

    The public `jax.distributed.initialize` also reads them, but it makes JAX's service listen on an
    address that other hosts reach, which `launch.peers` must avoid.

    Args:
      devices: the local devices that this process may use; None leaves the choice to JAX.
    """
    from jax._src.clusters import ClusterEnv

    return Cluster(
        *ClusterEnv.auto_detect_unset_distributed_params(None, None, None, devices, None, None)
    )


def coordination_client() -> Any:
    """Returns the client of the key-value store that all processes of a run share."""
    from jax._src import distributed

    return distributed.global_state.client


def restore_closed_jaxpr() -> None:
    """Makes `jax._src.core.ClosedJaxpr` exist, which jax2onnx 0.17 reads and jax 0.12 removed."""
    import jax._src.core
    import jax.extend.core

    setattr(jax._src.core, "ClosedJaxpr", jax.extend.core.ClosedJaxpr)  # noqa: B010
