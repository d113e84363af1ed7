"""The directories for files that later commands reuse: compiled programs and downloaded data sets.

This module imports only the standard library, so that tests can set JAX's variables first.
"""

import os
from pathlib import Path

DATA_VARIABLE = "DENSENET_JAX_DATA"
UNFINISHED = ".part"  # Ending of the name of a file whose download has not finished.


def cache_directory() -> Path | None:
    """Returns this project's directory in the user's cache; None if there is no home directory.

    An empty or relative XDG_CACHE_HOME counts as unset, as the XDG specification requires.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            home = Path.home()
        except RuntimeError:  # HOME is unset and the user has no name, as in containers.
            return None
        if home == Path(home.root):  # HOME is empty, or "/" as for services.
            return None
        base = home / ".cache"
    return base / "densenet_jax"


def set_directory(name: str) -> Path | None:
    """Returns where `launch.fetch` stores the data set `name`, and where its reader looks first.

    That is a subdirectory of $DENSENET_JAX_DATA, or else of the user's cache. Returns None if the
    variable is unset or empty and there is no home directory.
    """
    if variable := os.environ.get(DATA_VARIABLE):
        # Unlike Path.expanduser, this keeps an unknown `~user`.
        return Path(os.path.expanduser(variable)) / name  # noqa: PTH111
    ours = cache_directory()
    return ours / "data" / name if ours else None
