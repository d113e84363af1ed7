"""The directory for files that later commands reuse, such as compiled programs.

This module imports no JAX, so that tests can set JAX's variables first.
"""

import os
from pathlib import Path


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
