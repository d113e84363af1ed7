"""Names of Orbax that its documentation does not promise. A test reports when they move."""

from pathlib import Path

import orbax.checkpoint as ocp


def unfinished_directory(directory: Path, step: int) -> Path:
    """Returns the directory in which Orbax writes the checkpoint of `step` before it is complete.

    Raises FileNotFoundError if there is not exactly one.
    """
    found = list(directory.glob(f"{step}.*tmp*"))
    if len(found) != 1:
        names = [path.name for path in found]
        raise FileNotFoundError(f"Orbax writes step {step} of {directory} to {names}: expected one")
    return found[0]


def wait_for_processes(key: str, timeout_ms: int) -> None:
    """Waits until all processes of the run have called this with the same `key`."""
    ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)
